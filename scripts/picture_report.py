"""Take the pictures of a report that the documentation shows.

    clvq-hf report out --table results/concept_table -o report.html
    python scripts/picture_report.py --report report.html --concept 82 --text 60 --output_dir docs/images

Needs Chromium and `pip install playwright pillow`. The texts of the report are in the pictures: may you publish them?
"""

import io
import shutil
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright
from transformers import HfArgumentParser


@dataclass
class Arguments:
    """What to picture."""

    report: str = field(metadata={"help": "File that `clvq-hf report` has written."})
    concept: int = field(metadata={"help": "The concept that is shown."})
    text: int = field(metadata={"help": "The text that is shown."})
    output_dir: str = field(default="docs/images", metadata={"help": "Where report-*.png go."})


def main() -> None:
    """Take them."""
    (arguments,) = HfArgumentParser(Arguments).parse_args_into_dataclasses()
    # Name, address, size, theme.
    pictures = [
        ("overview", "", (1280, 1000), "light"),
        ("concept", f"#/concept/{arguments.concept}", (1280, 1100), "light"),
        ("text", f"#/text/{arguments.text}", (1280, 1240), "dark"),
        ("telephone", "#/concepts", (360, 720), "dark"),
    ]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for name, address, (width, height), theme in pictures:
            page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=theme)
            page.goto(Path(arguments.report).resolve().as_uri() + address)
            page.wait_for_selector("html[data-ready]")
            image = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
            file = Path(arguments.output_dir) / f"report-{name}.png"
            image.save(file, optimize=True)
            print(f"{file}: {file.stat().st_size // 1000} kB")
            page.close()
        browser.close()


if __name__ == "__main__":
    main()
