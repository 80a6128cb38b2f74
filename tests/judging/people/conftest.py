from helpers.study_fixtures import answer_sheet, folder, key, tables  # noqa: F401
