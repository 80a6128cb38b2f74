from helpers.judging_fixtures import make_table, no_long_waits, random_table, sentences, tables, word_table  # noqa: F401
