"""One HTML page that shows what a quickstart run did; figures and videos are inside the file."""

import base64
import html
import re
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from integration_tests.pipelines.files import write_whole

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1d2733; max-width: 60rem; margin: 2rem auto;
       padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
table { border-collapse: collapse; } td, th { padding: .3rem .8rem; text-align: right;
       border-bottom: 1px solid #d7dde4; } td:first-child, th:first-child { text-align: left; }
figure { margin: 1rem 0; display: inline-block; } figcaption { color: #5b6875; font-size: .9rem; }
img { max-width: 100%; } video { width: 22rem; image-rendering: pixelated; background: #000; }
.headline { font-size: 1.25rem; background: #eef4fb; padding: .8rem 1rem; border-radius: .4rem; }
code { background: #f2f4f6; padding: .1rem .3rem; }
"""


def write_page(path: Path, title: str, sections: Sequence[str]) -> None:
    """Write the page."""
    page = (
        "<!doctype html>\n<html lang='en'><head><meta charset='utf-8'>"
        f"<title>{html.escape(title)}</title><style>{STYLE}</style></head>\n"
        f"<body><h1>{html.escape(title)}</h1>\n" + "\n".join(sections) + "\n</body></html>\n"
    )
    write_whole(path, page)


def section(title: str, *parts: str) -> str:
    """Return a headed section of HTML ``parts``."""
    return f"<h2>{html.escape(title)}</h2>\n" + "\n".join(parts)


def paragraph(text: str, css: str = "") -> str:
    """Return an escaped paragraph; what stands between backticks is code."""
    marked = re.sub("`([^`]+)`", r"<code>\1</code>", html.escape(text))
    return f"<p class='{css}'>{marked}</p>"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table of escaped cells."""
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in header)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f"<table><tr>{head}</tr>{body}</table>"


def picture(path: Path, caption: str) -> str:
    """Return a PNG file as an inline figure."""
    return _figure(f"<img src='data:image/png;base64,{_base64(path)}'>", caption)


def video(path: Path, caption: str) -> str:
    """Return an mp4 file as an inline, looping video."""
    source = f"data:video/mp4;base64,{_base64(path)}"
    return _figure(f"<video controls loop autoplay muted src='{source}'></video>", caption)


def _figure(content: str, caption: str) -> str:
    return f"<figure>{content}<figcaption>{html.escape(caption)}</figcaption></figure>"


def _base64(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()


def save(figure: Any, path: Path) -> Path:
    """Save a figure as PNG and free it."""
    content = BytesIO()
    figure.savefig(content, dpi=110, bbox_inches="tight", format="png")
    plt.close(figure)
    write_whole(path, content.getvalue())
    return path


def learning_curves(runs: dict[str, list[dict[str, Any]]]) -> Any:
    """Plot success of training episodes, KL, entropy and explained variance against episodes.

    Args:
        runs: Rows of ``metrics.csv`` by run name.
    """
    panels = {
        "success_once": "success of training episodes",
        "approx_kl": "KL to the behaviour policy",
        "entropy": "entropy per token [nat]",
        "explained_variance": "explained variance of the critic",
    }
    figure, axes = plt.subplots(2, 2, figsize=(10, 6), sharex=True)
    for (key, label), axis in zip(panels.items(), axes.flat, strict=True):
        for name, rows in runs.items():
            points = [(r["episodes"], r[key]) for r in rows if r.get(key) is not None]
            if not points:
                continue
            x, y = np.array(points, float).T
            axis.plot(x, y, alpha=0.35, color=_colour(name))
            axis.plot(x, smooth(y), label=name, color=_colour(name))
        axis.set_title(label, fontsize=10)
        axis.grid(alpha=0.3)
    for axis in axes[1]:
        axis.set_xlabel("training episodes")
    axes[0, 0].set_ylim(0, 1)
    axes[0, 0].legend(loc="lower right")
    return figure


def success_bars(rows: list[tuple[str, dict[str, float]]]) -> Any:
    """Plot success rates with their Wilson 95 % intervals."""
    figure, axis = plt.subplots(figsize=(7, 0.5 * len(rows) + 1))
    for i, (name, score) in enumerate(rows):
        axis.barh(i, score["rate"], color=_colour(name), alpha=0.75)
        axis.plot([score["low"], score["high"]], [i, i], color="#1d2733", lw=2)
        axis.text(1.01, i, f"{100 * score['rate']:.1f} %", va="center")
    axis.set_yticks(range(len(rows)), [name for name, _ in rows])
    axis.invert_yaxis()
    axis.set_xlim(0, 1)
    axis.set_xlabel("success, Wilson 95 % interval")
    return figure


def _colour(name: str) -> str:
    return {"before": "#9aa7b4", "sparse": "#d08a2c"}.get(name.split(",")[0], "#2b6cb0")


def smooth(values: Any, window: int = 5) -> Any:
    """Return the running mean; at both ends it is that of fewer values."""
    kernel = np.ones(min(window, len(values)))
    return np.convolve(values, kernel, "same") / np.convolve(np.ones(len(values)), kernel, "same")
