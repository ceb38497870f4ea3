"""Carry adapters from one base to another: plan, pairing, subspaces, methods, output, report."""
