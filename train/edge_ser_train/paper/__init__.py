"""The reproduction of the paper: experiments, their cells, results and report."""
