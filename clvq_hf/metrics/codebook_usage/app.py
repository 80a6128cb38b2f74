"""A page on which the metric can be tried, as a Space of the Hugging Face Hub."""

from functools import partial
from pathlib import Path

import evaluate
from evaluate.utils import launch_gradio_widget

metric = evaluate.load(str(Path(__file__).with_name("codebook_usage.py")))
# The widget has fields for columns only: the size of the paper's codebook.
metric.compute = partial(metric.compute, codebook_size=400)
launch_gradio_widget(metric)
