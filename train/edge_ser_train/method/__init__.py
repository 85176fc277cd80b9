"""The method of Dai et al. (ICASSP 2019): model, losses, training loop. Read the paper here."""
