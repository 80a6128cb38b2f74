"""Every term of a report in one sentence, for its fold "How to read this"."""

from ..tables.shading import MIN_TEXTS

CONCEPTS = {
    "Token": "A word or a part of a word, as the model reads it.",
    "Layer": "A step of the model: layer 0 is the input of the first block, layer i the output of block i.",
    "State": "The vector that represents a token at a layer.",
    "Concept": "One entry of a codebook that was learned from the model's states; every token is assigned one of them.",
    "Number of a concept": "Its place in the codebook, which only identifies it; what it stands for is read from its "
    "words.",
    "Words of a concept": "The words whose tokens are assigned to it most often, without stop words if there are "
    "others.",
    "Nearest concepts": "Those whose vectors point in the most similar direction: cosine 1 is the same, 0 unrelated.",
    "Prediction": "The class that the model gives a text, or the token that it expects next.",
}
LABELS = {
    "Label": "The class that the data set gives a text; a prediction is wrong if it is another class.",
    "Purity": "The share of a concept's tokens that are in texts with its most frequent label.",
    "Colour": "The label of most of a concept's tokens; the purer the concept, the stronger the colour, and in fewer "
    "than "
    f"{MIN_TEXTS} texts it has none.",
    "Words that go elsewhere": "Words whose tokens have another concept in texts of one label than in those of "
    "another.",
}
NO_LABELS = {
    "Colour": "Only distinguishes concepts: together with the line below, the 32 most frequent concepts all look "
    "different, and further ones repeat them.",
}
SALIENCE = {
    "Salience": "How much a token contributes to the prediction; below 0, it counts against it.",
    "Contribution of a concept": "The sum of the salience of its tokens in a text.",
    "Salient token": "The token that contributes most to the prediction of its text; its concept is the salient "
    "concept.",
}
REMOVAL = {
    "Logit": "The score that the model gives a class, before scores become probabilities.",
    "Margin": "The logit of the predicted class minus the highest other one: how sure the prediction is.",
    "Removing a concept": "Taking its direction out of the states of tokens, and letting the model continue from "
    "there.",
    "Change of the margin": "The margin after a removal minus the margin before: below 0, the prediction relied on it.",
    "Cost": "The change of the margin with the sign reversed.",
    "Flip": "A prediction that is another class after a removal.",
    "Another concept of the text": "A control: if it costs as much, any concept of the text would have done.",
    "Another text's concept": "A control: the salient concept of a text with the same prediction; if it costs as "
    "much, the "
    "class was removed, not this concept.",
    "Class directions, class ceiling": "The directions in which the classes' mean states differ, and what removing "
    "only "
    "these costs.",
    "Word ceiling": "What removing only the mean state of the word costs, as it is in other texts.",
    "95 % interval": "The range that would contain the true mean in 95 of 100 such measurements, over texts.",
    "Cannot be told apart": "The interval of a difference contains 0: with more texts a difference may show.",
}
FIGURES = {
    "Code": "Another word for a concept, or for its number.",
    "Token type": "All tokens that are written alike.",
    "Random direction": "A control: any direction, with a change of the same size.",
    "LEACE": "Removes everything from which the class could be predicted linearly.",
    "Probe": "A classifier that was fitted to the states of the lower layer: what they contain, not what the model "
    "uses.",
    "Token specificity": "The change by the salient concept minus that by another concept of the same text.",
    "Text specificity": "The change by the salient concept minus that by another text's concept with the same "
    "prediction.",
    "Class specificity": "The change by another text's concept with the same prediction minus that with another "
    "prediction.",
    "Matched": "Compared only with concepts whose removal changes about as many tokens, and as much of them.",
    "p (Holm)": "How often so large a difference would arise by chance, corrected for the number of tests.",
    "Accuracy, balanced": "The share of right predictions; balanced: the mean of the shares of each class.",
    "AUC": "The probability that a text of a class gets a higher score for it than another text; 0.5 is chance.",
    "Rate-matched": "Accuracy if every class is predicted as often as before the removal.",
    "KL": "How far the probabilities move, in nats: 0 if they stay the same.",
    "Positions, norm": "The number of tokens that are changed, and by how much in total.",
    "Left out, of texts, of positions": "Draws that were excluded, and the shares of texts and tokens that a row "
    "covers.",
    "Cross-fitted": "Labels of concepts are learned on one half of the texts and tested on the other.",
    "Permuted": "The same figure after labels or codes were shuffled: what chance gives.",
    "Lexical gain": "Purity of concepts minus purity of the tokens themselves.",
    "Divergence, JSD": "How different the concepts of a word are under two labels, in bits: 0 the same, 1 disjoint; "
    "its excess "
    "is what exceeds chance.",
    "Overlap": "How many concepts two texts share, if they have the same label compared with different ones; TF-IDF "
    "cosine is "
    "how similar their words are.",
    "Perplexity": "The number of concepts that, used equally often, would be as varied as those in use.",
    "Gini coefficient": "How unequally often concepts are used: 0 equally, 1 all tokens have the same.",
    "Splice fidelity": "How well the model predicts if its states are replaced by what the concepts reconstruct: 1 "
    "as before, "
    "0 no better than the mean state.",
    "Leak": "The same fidelity with the concepts shuffled: what did not pass through them.",
    "Completeness error": "How far the salience of all tokens is from adding up to the prediction.",
}


def terms(has_labels: bool, has_salience: bool, has_removals: bool, has_figures: bool) -> dict[str, str]:
    """The terms that a report uses, in the order of its pages."""
    return {
        **CONCEPTS,
        **(LABELS if has_labels else NO_LABELS),
        **(SALIENCE if has_salience else {}),
        **(REMOVAL if has_removals else {}),
        **(FIGURES if has_figures else {}),
    }


__all__ = ["terms"]
