"""Tests of lib_transfer/storage."""
