"""A concept method with nothing but buffers, as clusters are: what every method must be able to do, it must do too."""

import torch
from transformers import initialization as init

from clvq_hf import CLVQConfig, ConceptModel


class BuffersOnly(ConceptModel):
    config_class = CLVQConfig

    def __init__(self, config):
        super().__init__(config)
        self.register_buffer("centroids", torch.zeros(3, config.hidden_size))
        self.post_init()

    def _init_weights(self, module):
        if module is self:
            init.ones_(module.centroids)
