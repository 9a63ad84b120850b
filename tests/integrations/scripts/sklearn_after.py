from fairclip import FairClipClassifier
from tests.integrations.adult import dataset, sex

X, y = (tensor.numpy() for tensor in dataset.tensors)
classifier = FairClipClassifier(max_ratio=2.0, batch_size=256, lr=0.01, epochs=20, random_state=0)
classifier.fit(X, y, sensitive_features=sex)
model = classifier.module_
