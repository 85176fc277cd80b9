"""What is learnt after training: of a microphone and of a person, kept in a profile."""
