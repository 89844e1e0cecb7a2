"""The science of face2bone: data, model, training, metrics and reports. Knows nothing of Flower."""

__version__ = "0.1.0"
