"""The mathematics: thin factors, dominant subspaces, similarity, principal vectors, the direct rotation.

One function per equation; tensors in, tensors out. Nothing here knows a file, a module's name or a method.
"""
