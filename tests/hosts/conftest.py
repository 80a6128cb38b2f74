from helpers.hook_hosts import bert, gpt2, hosts  # noqa: F401
