from helpers.report_fixtures import evaluation, model, report_file, results, table  # noqa: F401
