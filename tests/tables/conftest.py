from helpers.report_fixtures import model, table  # noqa: F401
