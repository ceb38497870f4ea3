"""The forms that a model comes in, each as a :class:`~.store.Store`: tensors that stay on disk until they are asked for."""
