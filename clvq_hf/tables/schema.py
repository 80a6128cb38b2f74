"""The columns of a concept table."""

from datasets import Features, List, Value

FORMAT_VERSION = 1


TOKEN_FEATURES = Features(
    {
        "text_id": Value("int64"),
        "position": Value("int32"),
        "token": Value("string"),
        "token_id": Value("int32"),
        "special": Value("bool"),
        "word_id": Value("int32"),
        "start": Value("int32"),
        "end": Value("int32"),
        "code": Value("int32"),
        "salience": Value("float32"),
    }
)


TEXT_FEATURES = Features(
    {
        "text_id": Value("int64"),
        "text": Value("string"),
        "label": Value("int64"),
        "prediction": Value("int64"),
        "logits": List(Value("float32")),
        "split": Value("string"),
        "dataset": Value("string"),
        "num_tokens": Value("int32"),
        "salient_position": Value("int32"),
        "salience_error": Value("float32"),
    }
)


# What a figure should not be read from: it was seen in training.
TRAINING_SPLITS = ("host_train", "codebook_train")


__all__ = ["FORMAT_VERSION", "TEXT_FEATURES", "TOKEN_FEATURES", "TRAINING_SPLITS"]
