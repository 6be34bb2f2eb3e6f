"""Result files to one HTML and one Markdown page, with a figure per claim."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from integration_tests.pipelines import report as html
from integration_tests.pipelines.files import write_whole
from integration_tests.study.claims import CLAIMS
from integration_tests.study.design import Claim, Finding, Profile, Results
from integration_tests.study.records import Records

RULE = (
    "A claim holds if the 95 % interval of the difference is above zero, holds in direction if its "
    "mean is by more than a standard error, which chance alone reaches in a fifth of all cases, "
    "does not hold if the interval is below zero, and is undecided otherwise or with fewer than "
    "three seeds. Where several differences count, the weakest decides; the order of frames has "
    "bars of its own."
)
INTRODUCTION = (
    "Each claim of a paper is checked with a small policy, where nothing else is said on "
    "ManiSkill3's PickCube with a wrist camera of 64 pixels. Brackets are 95 % intervals: of "
    "success rates Wilson's, over the episodes of all seeds; of differences and other scores "
    "Student's t, over seeds; bands around curves are bootstrap intervals over seeds. " + RULE + " "
    "What a small policy shows on one simulated task need not be what a large one shows on robots."
)
VERDICTS = "<!-- verdicts -->"
"""Stands before and after the table of verdicts in the repository's README."""


def judge_all(profile: Profile, records: Records) -> dict[Claim, Finding]:
    """Return what the results say of each claim."""
    results = records.results()
    return {claim: _finding(claim, profile, results) for claim in CLAIMS}


def verdicts(findings: Mapping[Claim, Finding], page: str = "") -> str:
    """Return the table of verdicts, whose links lead to a Markdown page of the report."""
    rows = [
        [f"[{claim.title}]({page}#{claim.name})", claim.source, finding.verdict, finding.headline]
        for claim, finding in findings.items()
    ]
    return "\n".join(_table(["claim", "source", "verdict", "numbers"], rows))


def verdict_section(findings: Mapping[Claim, Finding], page: str) -> str:
    """Return what stands between the marks in the README."""
    return f"\n{verdicts(findings, page)}\n\n{RULE} n counts seeds.\n"


def write_verdicts(findings: Mapping[Claim, Finding], readme: Path, page: str) -> None:
    """Replace the table of verdicts in a README."""
    before, _, after = readme.read_text().split(VERDICTS)
    write_whole(readme, VERDICTS.join([before, verdict_section(findings, page), after]))


def write_report(profile: Profile, records: Records, folder: Path) -> str:
    """Write ``README.md``, ``study.html`` and the figures; return a line per claim."""
    folder.mkdir(parents=True, exist_ok=True)
    findings = judge_all(profile, records)
    pictures = {
        claim.name: html.save(finding.draw(), folder / f"{claim.name}.png")
        for claim, finding in findings.items()
        if finding.draw is not None
    }
    dates = sorted({content["date"] for content in records.files().values()})
    seconds = sum(content["seconds"] for content in records.files().values())
    span = " to ".join(dates[:: max(1, len(dates) - 1)])
    made = (
        f"{len(records.files())} runs, {seconds / 3600:.1f} hours, {span}. A policy plays "
        f"{profile.base.num_evaluated} held-out episodes per seed, {profile.num_shifted} under "
        f"each shift, {profile.calvin.num_evaluated} chains of CALVIN; its actions are sampled."
    )
    write_whole(folder / "README.md", _markdown(findings, pictures, made))
    html.write_page(
        folder / "study.html",
        "The papers' claims at laptop scale",
        [html.paragraph(INTRODUCTION), html.paragraph(made)]
        + [
            _section(claim, finding, pictures.get(claim.name))
            for claim, finding in findings.items()
        ],
    )
    lines = [f"{c.name:10s} {f.verdict:20s} {f.headline}".rstrip() for c, f in findings.items()]
    return "\n".join([*lines, "", f"report  {folder / 'study.html'}"])


def _finding(claim: Claim, profile: Profile, results: Results) -> Finding:
    if any(run.name in results for run in claim.runs(profile)):
        return claim.judge(profile, results)
    return Finding(verdict="not run")


def _first_line(finding: Finding) -> str:
    return finding.verdict.capitalize() + (f": {finding.headline}" if finding.headline else "")


def _section(claim: Claim, finding: Finding, picture: Path | None) -> str:
    parts = [
        html.paragraph(_first_line(finding), css="headline"),
        html.paragraph(f"{claim.hypothesis} ({claim.source})"),
        html.paragraph(claim.setting),
    ]
    if finding.rows:
        parts.append(html.table(finding.header, finding.rows))
    parts += [html.paragraph(remark) for remark in finding.remarks]
    if picture is not None:
        parts.append(html.picture(picture, claim.title))
    parts.append(f"<p><code>nox -s study -- {claim.name}</code></p>")
    return html.section(claim.title, *parts)


def _markdown(findings: dict[Claim, Finding], pictures: dict[str, Path], made: str) -> str:
    lines = ["# The papers' claims at laptop scale", "", INTRODUCTION, "", made, ""]
    lines.append(verdicts(findings))
    for claim, finding in findings.items():
        lines += ["", f'## <a name="{claim.name}"></a>{claim.title}', ""]
        lines += [f"**{_first_line(finding)}.** {claim.hypothesis} *{claim.source}.*", ""]
        lines += [f"{claim.setting} `nox -s study -- {claim.name}`", ""]
        if finding.rows:
            lines += [*_table(finding.header, finding.rows), ""]
        lines += [f"* {remark}" for remark in finding.remarks]
        if claim.name in pictures:
            lines += ["", f"![{claim.title}]({pictures[claim.name].name})"]
    return "\n".join(lines) + "\n"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    ruler = ["---"] * len(header)
    return ["| " + " | ".join(row) + " |" for row in (header, ruler, *rows)]
