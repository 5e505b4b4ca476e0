"""The comparison's page. A Python module, since Flower's bundle carries no HTML files."""

from __future__ import annotations

from typing import Final

from fedkd.report.template import OPENING, PLOTS

CSS: Final = """
table.scores { width: auto; min-width: 100%; } table.scores th, table.scores td { padding-right: 1rem; }
table.scores thead th { vertical-align: bottom; overflow-wrap: anywhere; } table.scores tbody th { position: sticky;
  left: 0; background: var(--paper); font-weight: 500; overflow-wrap: anywhere; min-width: 9rem; max-width: 14rem; }
table.scores td { white-space: nowrap; } table.scores td.best { font-weight: 700; color: var(--accent); }
table.scores td.none { color: var(--muted); font-style: italic; }
table.scores td small { display: block; color: var(--muted); font-weight: 400; }
table.listed tbody th, table.published tbody th { font-weight: 500; }
table.published td:nth-child(n+3):nth-child(-n+5) { white-space: nowrap; }
td.wrap { overflow-wrap: break-word; } figure { margin-top: .6rem; }
p.legend { font-size: .9rem; color: var(--muted); } ul.remarks { font-size: .9rem; }
"""

PAGE: Final = (
    """\
{% macro listing(label, head, rows, kind="listed") %}
<div class="scroll" role="region" aria-label="{{ label }}" tabindex="0">
<table class="{{ kind }}">
<thead><tr>{% for name in head %}<th scope="col">{{ name }}</th>{% endfor %}</tr></thead>
<tbody>
{% for row in rows -%}
<tr><th scope="row">{{ row[0] }}</th>{% for cell in row[1:] %}<td class="wrap">{{ cell }}</td>{% endfor %}</tr>
{% endfor -%}
</tbody>
</table>
</div>
{% endmacro -%}
"""
    + OPENING
    + """\
{% if notice %}<p class="notice" role="note">{{ notice }}</p>{% endif %}
</header>
<main>
{% for table in tables -%}
<section aria-labelledby="table-{{ table.figure }}">
<h2 id="table-{{ table.figure }}">{{ table.title }}</h2>
{% for block in table.blocks %}{% if block.title %}<h3>{{ block.title }}</h3>
{% endif -%}
<div class="scroll" role="region" aria-label="{{ table.title }} of each setting {{ block.title }}" tabindex="0">
<table class="scores">
<thead><tr>{% for name in block.head %}<th scope="col"{% if not loop.first %} class="n"{% endif %}>
{{- name | breakable }}</th>{% endfor %}</tr></thead>
<tbody>
{% for row, cells in block.rows -%}
<tr><th scope="row">{{ row | breakable }}</th>
{%- for cell in cells %}<td class="{{ cell.kind }}" title="{{ cell.detail }}">{{ cell.text }}
{%- if cell.tie %} <span aria-label="not told apart from the best">{{ cell.tie }}</span>{% endif %}
{%- for each in cell.published %}<small>published {{ each }}</small>{% endfor %}</td>{% endfor %}</tr>
{% endfor -%}
</tbody>
</table>
</div>
{% endfor -%}
<p class="legend">{{ table.legend }}</p>
{% if table.remarks %}<ul class="muted remarks">{% for remark in table.remarks %}<li>{{ remark }}.</li>{% endfor %}</ul>
{% endif -%}
</section>
{% endfor -%}
{% if published %}<section aria-labelledby="published">
<h2 id="published">Published beside ours</h2>
{{ listing("Published figures beside ours", published_head, published, "published") }}
</section>
{% endif -%}
"""
    + PLOTS
    + """\
{% if problems %}<section aria-labelledby="problems">
<h2 id="problems">Cells without figures</h2>
{% if problems|length > 20 %}<details><summary>Show all {{ problems|length }}</summary>
{{ listing("Cells without figures", ["cell", "why"], problems) }}</details>
{% else %}{{ listing("Cells without figures", ["cell", "why"], problems) }}{% endif %}
</section>
{% endif -%}
<section aria-labelledby="repeat">
<h2 id="repeat">How to repeat</h2>
{{ listing("How to repeat", ["what", "value"], repeat) }}
</section>
</main>
<footer>Made by fedkd from <code>sweep.json</code> and <code>cells/*.json</code> alone. Beside this page:
<code>comparison.md</code>, <code>comparison.tex</code>, <code>comparison.json</code> (all statistics) and
<code>cells.csv</code> (every cell). The comparison can be made again at any time without a run.</footer>
</body>
</html>
"""
)
