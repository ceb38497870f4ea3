"""Tests of lib_transfer/conversion."""
