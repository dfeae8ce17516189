"""Train, judge and publish an image classifier for Fashion-MNIST.

Importing the package, or any module of it, has no effect: no seed, folder, client or
environment is touched, and TensorFlow is imported only by the modules that compute with it.
"""
