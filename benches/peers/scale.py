"""From the documents of run.sh: one document of medians, and tables and a plot where a folder is named."""

import json
import math
import pathlib
import statistics
import sys

SHAPES = {"batched": "100 samples a record", "single": "one sample a record"}
COLOURS = {1: "#2b6cb0", 4: "#b7791f", 16: "#2f855a"}
LINES_MAX = 5
FIGURES = ("cpu_s_per_million", "broker_cpu_s_per_million", "samples_per_s", "peak_rss_mb")

PAGE = """# What a sample costs as series and partitions grow

One process in office on all partitions, with the broker on the same two cores, over a topic that is filled before.
Every state is compared with that of the reference, bit for bit.
The first million samples are the warm-up; at a million series that is the round in which each is met for the first time.
Each row is the median of {runs}: on a machine that others share, runs of the same cost differ by a quarter and more.
`benches/peers/scale.sh --docs docs` measures it and writes this page.

{flatness}

![CPU seconds per million samples against the number of series](kafka-scale.svg)

{table}
"""


def medians(paths):
    """One row for each shape, number of series and number of partitions."""
    runs = {}
    for path in paths:
        document = json.loads(pathlib.Path(path).read_text())
        filled = {it["topic"]: it for it in document["filled"]}
        for result in document["results"]:
            topic = filled[f"bench.{result['shape']}.telemetry"]
            key = (result["shape"], topic["series"], topic["partitions"], topic["samples"])
            runs.setdefault(key, []).append(result)
    for (shape, series, partitions, samples), these in sorted(runs.items()):
        row = {"shape": shape, "series": series, "partitions": partitions, "samples": samples,
               "runs": len(these), "agrees": all(it["agrees_with_reference"] for it in these)}
        for name in FIGURES:
            row[name] = statistics.median(it["result"][name] for it in these)
        yield row


def ratios(found):
    """What a sample costs with the most series, as a multiple of what it costs with the fewest."""
    for shape in SHAPES:
        cost = {(it["series"], it["partitions"]): it["cpu_s_per_million"]
                for it in found if it["shape"] == shape}
        few, many = min(it for it, _ in cost), max(it for it, _ in cost)
        for partitions in sorted({it for _, it in cost}):
            yield shape, partitions, few, many, cost[many, partitions] / cost[few, partitions]


def flatness(found):
    """The same as a table."""
    all_of_them = list(ratios(found))
    partitions = sorted({it for _, it, _, _, _ in all_of_them})
    _, _, few, many, _ = all_of_them[0]
    yield f"| CPU at {many:,} series against {few:,} | " + " | ".join(map(counted, partitions)) + " |"
    yield "| --- " * (1 + len(partitions)) + "|"
    for shape, name in SHAPES.items():
        of = [f"{ratio:.2f}" for it, _, _, _, ratio in all_of_them if it == shape]
        yield f"| {name} | " + " | ".join(of) + " |"


def counted(partitions):
    return "1 partition" if partitions == 1 else f"{partitions} partitions"


def table(found):
    yield "| shape | series | partitions | CPU s per M samples | of the broker | M samples/s | peak RSS |"
    yield "| --- | --- | --- | --- | --- | --- | --- |"
    for it in found:
        yield (f"| {SHAPES[it['shape']]} | {it['series']:,} | {it['partitions']} "
               f"| {it['cpu_s_per_million']:.3f} | {it['broker_cpu_s_per_million']:.3f} "
               f"| {it['samples_per_s'] / 1e6:.2f} | {it['peak_rss_mb']:.0f} MB |")


def round_step(most):
    """Of the steps 1, 2 and 5 times a power of ten, the least that reaches `most`."""
    power = 10 ** math.floor(math.log10(most / LINES_MAX))
    return next(it * power for it in (1, 2, 5, 10) if it * power * LINES_MAX >= most)


def plot(found):
    """Two panels, one a shape: CPU against series, a line for each number of partitions."""
    width, height, left, top = 330, 200, 60, 40
    out = ['<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 850 320" font-family="sans-serif" '
           'font-size="12" role="img" aria-label="CPU seconds per million samples against series">',
           '<rect width="850" height="320" fill="#ffffff"/>']
    every = sorted({it["series"] for it in found})
    for panel, shape in enumerate(SHAPES):
        these = [it for it in found if it["shape"] == shape]
        x0, y0 = left + panel * (width + 80), top + height
        dearest = max(it["cpu_s_per_million"] for it in these)
        step = round_step(dearest)
        lines = math.ceil(dearest / step)
        most, decimals = step * lines, max(0, math.ceil(-math.log10(step) - 1e-9))

        def at(it):
            share = every.index(it["series"]) / max(len(every) - 1, 1)
            return x0 + share * width, y0 - it["cpu_s_per_million"] / most * height

        out.append(f'<text x="{x0}" y="{top - 16}" fill="#1a202c">{SHAPES[shape]}: '
                   'CPU s per million samples</text>')
        for line in range(lines + 1):
            y, value = y0 - line / lines * height, step * line
            out.append(f'<line x1="{x0}" x2="{x0 + width}" y1="{y:.0f}" y2="{y:.0f}" stroke="#e2e8f0"/>')
            out.append(f'<text x="{x0 - 6}" y="{y + 4:.0f}" text-anchor="end" fill="#4a5568">{value:.{decimals}f}</text>')
        for place, n in enumerate(every):
            x = x0 + place / max(len(every) - 1, 1) * width
            out.append(f'<text x="{x:.0f}" y="{y0 + 18}" text-anchor="middle" fill="#4a5568">{n:,}</text>')
        out.append(f'<text x="{x0 + width / 2}" y="{y0 + 36}" text-anchor="middle" fill="#4a5568">series</text>')
        for partitions in sorted({it["partitions"] for it in these}):
            line = sorted((it for it in these if it["partitions"] == partitions), key=lambda it: it["series"])
            colour = COLOURS.get(partitions, "#4a5568")
            path = " ".join(f"{x:.1f},{y:.1f}" for x, y in map(at, line))
            out.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
            out.extend(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in map(at, line))
    for place, partitions in enumerate(sorted({it["partitions"] for it in found})):
        x = left + place * 130
        colour = COLOURS.get(partitions, "#4a5568")
        out.append(f'<rect x="{x}" y="296" width="14" height="4" fill="{colour}"/>')
        out.append(f'<text x="{x + 20}" y="302" fill="#1a202c">{counted(partitions)}</text>')
    out.append("</svg>")
    return "\n".join(out) + "\n"


def main():
    folder, paths = sys.argv[1], sys.argv[2:]
    found = list(medians(paths))
    print(json.dumps(found, indent=2))
    print("\n".join([*table(found), "", *flatness(found)]), file=sys.stderr)
    if folder:
        (pathlib.Path(folder) / "kafka-scale.svg").write_text(plot(found))
        n = found[0]["runs"]
        text = PAGE.format(runs="1 run" if n == 1 else f"{n} runs",
                           flatness="\n".join(flatness(found)), table="\n".join(table(found)))
        (pathlib.Path(folder) / "kafka-scale.md").write_text(text)
    sys.exit(0 if all(it["agrees"] for it in found) else 1)


main()
