"""Tests of lib_transfer/engine."""
