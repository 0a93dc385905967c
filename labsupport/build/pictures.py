"""Put a still picture where a run had a live figure.

A FigureWidget would store five megabytes of JavaScript, plotly's own output
has no picture where no JavaScript runs (GitHub), and the text of a widget
changes with every run. A stored output therefore holds one sentence and one
PNG; running the cell brings the live figure back.
"""

from __future__ import annotations

import base64
import json
import re
from contextlib import ExitStack
from importlib.resources import as_file, files
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
from nbformat import NotebookNode

from labsupport.build.chromium import chromium
from labsupport.build.png import encode
from labsupport.errors import LabError

if TYPE_CHECKING:
    from playwright.sync_api import Page

FIGURE = "application/vnd.labs.figure+json"
PLOTLY = "application/vnd.plotly.v1+json"
WIDGET = "application/vnd.jupyter.widget-view+json"
LIVE = (FIGURE, PLOTLY, WIDGET)
WIDTH, HEIGHT = 720, 420  # CSS pixels, where the layout does not say
DENSITY = 1.25  # device pixels per CSS pixel: still sharp, 40 % of the bytes of 2
REPR = re.compile(r"\s*[A-Za-z_][\w.]*\(")  # FigureWidget({...}), VBox(...)

# Plotly draws on a canvas of its own; the pixels come back uncompressed, so
# that they are compressed once, with a palette.
DRAW = """async ([figure, width, height, density]) => {
  const url = await Plotly.toImage(figure,
    {format: 'png', width: width, height: height, scale: density});
  const image = new Image();
  image.src = url;
  await image.decode();
  const canvas = document.createElement('canvas');
  canvas.width = image.width;
  canvas.height = image.height;
  const pen = canvas.getContext('2d');
  pen.fillStyle = 'white';
  pen.fillRect(0, 0, image.width, image.height);
  pen.drawImage(image, 0, 0);
  const bytes = pen.getImageData(0, 0, image.width, image.height).data;
  let text = '';
  for (let i = 0; i < bytes.length; i += 32768)
    text += String.fromCharCode.apply(null, bytes.subarray(i, i + 32768));
  return [image.width, image.height, btoa(text)];
}"""


class Painter:
    """Draws figures in one browser, started with the first figure.

    Use as a context manager; nothing is fetched from the network.
    """

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._page: Page | None = None

    def __enter__(self) -> Painter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()
        self._page = None

    def draw(self, figure: dict[str, Any]) -> tuple[bytes, int, int]:
        """Draw a plotly figure ({"data": ..., "layout": ...}).

        Returns:
            The PNG, and its width and height in CSS pixels.

        Raises:
            LabError: no Chromium, or plotly refuses the figure.
        """
        from playwright.sync_api import Error

        page = self._page or self._open_page()
        layout = figure.get("layout") or {}
        width = int(layout.get("width") or WIDTH)
        height = int(layout.get("height") or HEIGHT)
        still = {"data": figure.get("data") or [], "layout": layout}
        try:
            wide, high, text = page.evaluate(DRAW, [still, width, height, DENSITY])
        except Error as error:
            first = str(error).splitlines()[0]
            raise LabError(f"plotly could not draw a figure: {first}") from None
        rgba = np.frombuffer(base64.b64decode(text), np.uint8).reshape(high, wide, 4)
        return encode(rgba[:, :, :3]), width, height

    def _open_page(self) -> Page:
        browser = self._stack.enter_context(chromium())
        page = browser.new_page(device_scale_factor=DENSITY)
        page.set_content("<!doctype html><meta charset='utf-8'><body></body>")
        script = files("plotly") / "package_data" / "plotly.min.js"
        with as_file(script) as path:
            page.add_script_tag(path=path)
        self._page = page
        return page


def still_pictures(notebook: NotebookNode, painter: Painter) -> None:
    """Replace every live output of `notebook` by a sentence and a PNG.

    An output with a figure keeps its sentence and gains the picture. A widget
    without a figure (a button, a progress bar) keeps its sentence, if it has
    one that is more than a repr; otherwise the output goes.
    """
    notebook.metadata.pop("widgets", None)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            stilled = [_still(output, painter) for output in cell.outputs]
            cell.outputs = [output for output in stilled if output is not None]


def _still(output: NotebookNode, painter: Painter) -> NotebookNode | None:
    data = output.get("data", {})
    if not any(kind in data for kind in LIVE):
        return output
    kept: dict[str, Any] = {}
    metadata: dict[str, Any] = {}
    sentence = data.get("text/plain", "")
    if sentence and not REPR.match(sentence):
        kept["text/plain"] = sentence
    figure = data.get(FIGURE) or data.get(PLOTLY)
    if figure is not None:
        if isinstance(figure, str):
            figure = json.loads(figure)
        png, width, height = painter.draw(figure)
        kept["image/png"] = base64.b64encode(png).decode()
        # Without this a picture of double density shows at double size.
        metadata["image/png"] = {"width": width, "height": height}
    if not kept:
        return None
    # A result's number would tell how often a widget's cell was run.
    return NotebookNode(
        output_type="display_data",
        data=NotebookNode(kept),
        metadata=NotebookNode(metadata),
    )
