"""Tests of lib_transfer/formats."""
