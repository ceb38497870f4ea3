"""Tests of lib_transfer/method."""
