"""What the server of `helpers.faults` imports before it forks."""

import datasets  # noqa: F401
import torch
import transformers  # noqa: F401

import clvq_hf.cli.evaluate
import clvq_hf.evaluation
import clvq_hf.explanations
import clvq_hf.models
import clvq_hf.report
import clvq_hf.training  # noqa: F401

torch.set_num_threads(1)
