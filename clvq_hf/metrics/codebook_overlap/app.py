"""A page on which the metric can be tried, as a Space of the Hugging Face Hub."""

from pathlib import Path

import evaluate
from evaluate.utils import launch_gradio_widget

launch_gradio_widget(evaluate.load(str(Path(__file__).with_name("codebook_overlap.py"))))
