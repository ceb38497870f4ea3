"""Tests of lib_transfer/linalg."""
