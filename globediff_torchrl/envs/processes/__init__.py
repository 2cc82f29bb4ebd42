"""Environments in processes of their own: guarded against crashes, several at once, none left behind."""
