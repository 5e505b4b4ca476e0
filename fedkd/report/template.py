"""The report's page. A Python module, since Flower's bundle carries no HTML files."""

from __future__ import annotations

from typing import Final

COLORS: Final = ("blue", "orange", "green", "purple", "amber", "sky", "graphite")  # the theme's, for plots' lines

CSS: Final = """
:root { color-scheme: light dark; --paper: #ffffff; --card: #f6f8fa; --ink: #1f2328; --muted: #59636e; --line: #d1d9e0;
  --grid: #dfe3e8; --accent: #0072b2; --blue: #0072b2; --orange: #d55e00; --green: #009e73; --purple: #aa4499;
  --amber: #a67c00; --sky: #3d97d6; --graphite: #3d444d; }
@media (prefers-color-scheme: dark) { :root { --paper: #0d1117; --card: #161b22; --ink: #e6edf3; --muted: #9aa4af;
  --line: #30363d; --grid: #2b3138; --accent: #58b4e6; --blue: #56b4e9; --orange: #f0883e; --green: #3fbf95;
  --purple: #d98cc9; --amber: #e6c229; --sky: #9bd1f5; --graphite: #c4ccd4; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
main, header, footer { max-width: 60rem; margin: 0 auto; padding: 0 1.25rem; }
header { padding-top: 2rem; } h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 .3rem; }
h2 { font-size: 1.25rem; margin: 2.4rem 0 .8rem; padding-bottom: .3rem; border-bottom: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1.8rem 0 .4rem; } p { margin: .4rem 0; }
.muted, footer, figcaption { color: var(--muted); }
.notice { background: var(--card); border-left: 4px solid var(--orange); padding: .6rem 1rem; margin: 1rem 0; }
dl.figures { display: grid; grid-template-columns: repeat(auto-fill, minmax(10.5rem, 1fr)); gap: .7rem; margin: 0; }
dl.figures div { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: .6rem .8rem; }
dl.figures dt { font-size: .82rem; color: var(--muted); }
dl.figures dd { margin: 0; font-size: 1.25rem; font-weight: 600; }
figure { margin: 0; overflow-x: auto; } figcaption { font-size: .9rem; }
figure svg { display: block; width: 100%; min-width: 34rem; height: auto; }
figure svg * { stroke-linejoin: round; stroke-linecap: butt; }
.scroll { overflow: auto; max-height: 40rem; } table { border-collapse: collapse; font-size: .9rem; width: 100%; }
caption { text-align: left; color: var(--muted); padding: .3rem 0; }
th, td { text-align: left; padding: .3rem .7rem .3rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
thead th { position: sticky; top: 0; background: var(--paper); }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; }
td code { overflow-wrap: anywhere; } code { font: .88em ui-monospace, "DejaVu Sans Mono", monospace; }
summary { cursor: pointer; color: var(--accent); padding: .3rem 0; }
footer { font-size: .85rem; padding: 2rem 1.25rem 3rem; }
a { color: var(--accent); } :focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
@media print { .scroll { max-height: none; } h3, figure { break-inside: avoid; } }
"""

# How every page opens; `kind` is what it is to fedkd, for the browser's tab.
OPENING: Final = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }} – fedkd {{ kind }}</title>
<style>{{ css }}</style>
</head>
<body>
<header>
<h1>{{ title }}</h1>
<p class="muted">{{ subtitle }}</p>
"""

# The section of the plots, drawn or not.
PLOTS: Final = """\
<section aria-labelledby="plots">
<h2 id="plots">Plots</h2>
{% for plot in plots -%}
<h3 id="plot-{{ plot.name }}">{{ plot.title }}</h3>
<figure aria-labelledby="plot-{{ plot.name }}">
{{ plot.svg }}
<figcaption>{{ plot.caption }} <span>Numbers: <code>plots/{{ plot.name }}.csv</code></span></figcaption>
</figure>
{% endfor -%}
{% if skipped %}<h3>Not drawn</h3>
<ul class="muted">
{% for plot in skipped %}<li>{{ plot.title }}: {{ plot.reason }}.</li>
{% endfor -%}
</ul>{% endif %}
</section>
"""

PAGE: Final = (
    """\
{% macro clients_table() %}
<div class="scroll" role="region" aria-label="Figures of each client" tabindex="0">
<table>
<caption>{{ clients_note }}</caption>
<thead><tr>{% for name in client_columns %}<th scope="col" class="n">{{ name }}</th>{% endfor %}</tr></thead>
<tbody>
{% for row in client_rows -%}
<tr><th scope="row" class="n">{{ row[0] }}</th>{% for cell in row[1:] %}<td class="n">{{ cell }}</td>{% endfor %}</tr>
{% endfor -%}
</tbody>
</table>
</div>
{% endmacro -%}
"""
    + OPENING
    + """\
{% if not is_finished %}<p class="notice" role="note">This run has not reached its closing evaluation:
final figures are missing, and the plots show what there is.</p>{% endif %}
</header>
<main>
<section aria-labelledby="headline">
<h2 id="headline">Headline</h2>
<dl class="figures">
{% for name, value in headline -%}
<div><dt>{{ name }}</dt><dd>{{ value }}</dd></div>
{% endfor -%}
</dl>
<p class="muted">{{ metric_note }}</p>
</section>
"""
    + PLOTS
    + """\
<section aria-labelledby="clients">
<h2 id="clients">Clients</h2>
{% if not client_rows %}<p class="muted">No figures of single clients were recorded.</p>
{% elif client_rows|length > 40 %}
<details><summary>Show all {{ client_rows|length }} clients</summary>{{ clients_table() }}</details>
{% else %}{{ clients_table() }}{% endif %}
</section>
<section aria-labelledby="config">
<h2 id="config">Configuration</h2>
<table>
<caption>Every key of <code>config.toml</code>, by group.</caption>
<thead><tr><th scope="col">group</th><th scope="col">keys</th></tr></thead>
<tbody>
{% for group, keys in config -%}
<tr><th scope="row">{{ group }}</th><td>
{%- for key, value in keys %}<code>{{ key }} = {{ value }}</code>{{ "" if loop.last else " · " }}{% endfor -%}
</td></tr>
{% endfor -%}
</tbody>
</table>
</section>
<section aria-labelledby="environment">
<h2 id="environment">Environment</h2>
{% if environment %}<table>
<caption>From <code>env.json</code>.</caption>
<thead><tr><th scope="col">what</th><th scope="col">value</th></tr></thead>
<tbody>
{% for key, value in environment -%}
<tr><th scope="row">{{ key }}</th><td><code>{{ value }}</code></td></tr>
{% endfor -%}
</tbody>
</table>{% else %}<p class="muted">The folder has no readable <code>env.json</code>.</p>{% endif %}
</section>
</main>
<footer>Made by fedkd from <code>config.toml</code>, <code>metrics.jsonl</code> and <code>timings.jsonl</code>;
run <code>fedkd report</code> on the folder to make it again.</footer>
</body>
</html>
"""
)
