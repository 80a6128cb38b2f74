"""A grid that runs in seconds: a host from scratch, two methods, two seeds."""

GRID = """
seeds: [0, 1]
sizes: {host_texts: 200, train_texts: 120, test_texts: 40, max_length: 24}
sweep: [1, 2]
evaluation:
  protocols: [code]
  conditions: [salient, other_code, random_active_code, word_residual]
  num_draws: 1
  n_steps: 4
  max_steps: 4
  num_bootstrap: 100
hosts:
  tiny:
    from_scratch: gpt2
    config: {n_layer: 2, n_embd: 32, n_head: 2, n_positions: 32}
    vocab_size: 400
    lower_layer: 1
    upper_layer: 2
    fine_tune: {num_train_epochs: 4, learning_rate: 1e-2}
datasets:
  reviews: {texts: $REVIEWS}
methods:
  - {method: kmeans, config: {codebook_size: 12}}
  - method: transcoder
    config: {codebook_size: 64, num_active: 4}
    training: {num_train_epochs: 2, learning_rate: 1e-2}
"""
