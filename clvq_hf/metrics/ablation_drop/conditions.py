"""The names of what is removed in an ablation experiment, and of the comparisons between them."""

# Name → title, in the order of all results; conditions with other names follow alphabetically.
CONDITIONS = {
    "salient": "the salient concept",
    "other_code": "another concept of the text",
    "other_text_same": "another text's, same prediction",
    "other_text_opposite": "another text's, other prediction",
    "random_direction": "random direction, same norm",
    "random_active_code": "random active code",
    "mean_direction": "the codebook's mean direction",
    "class_ceiling": "class directions (ceiling)",
    "class_residual": "salient concept minus class directions",
    "leace": "LEACE",
    "word_ceiling": "the word's mean state",
    "word_residual": "salient concept minus word mean",
    "word_random": "random direction beside the word mean, norm of the above",
}
# The primary contrasts, one family for Holm: the effect of the first condition minus the effect of the second.
CONTRASTS = {
    "token_specificity": ("salient", "other_code"),
    "text_specificity": ("salient", "other_text_same"),
    "class_specificity": ("other_text_same", "other_text_opposite"),
}
