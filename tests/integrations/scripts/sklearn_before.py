from sklearn.neural_network import MLPClassifier

from tests.integrations.adult import dataset

X, y = (tensor.numpy() for tensor in dataset.tensors)
classifier = MLPClassifier(
    (64, 64), batch_size=256, learning_rate_init=0.01, tol=1e-3, random_state=0
)
classifier.fit(X, y)
