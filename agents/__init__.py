"""Policies that choose what to train on."""
