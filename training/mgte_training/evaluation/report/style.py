"""How the page looks: light and dark, wide and narrow, nothing from elsewhere."""

SERIES = 8

STYLE = """
:root {
  color-scheme: light dark;
  --ground: #fff; --card: #f6f7f9; --text: #1b1f24; --soft: #5b6470; --line: #d9dee5;
  --good: #1a7f46;
  --c0: #0b63c5; --c1: #c2410c; --c2: #1a7f46; --c3: #8b3fc7;
  --c4: #b8860b; --c5: #0e7c86; --c6: #c11d5d; --c7: #5b6470;
}
@media (prefers-color-scheme: dark) {
  :root {
    --ground: #14171b; --card: #1d2127; --text: #e6e9ed; --soft: #9aa4b1; --line: #343b45;
    --good: #5fd08f;
    --c0: #6db1ff; --c1: #ff9a62; --c2: #5fd08f; --c3: #c79bf2;
    --c4: #e6c35c; --c5: #56c8d2; --c6: #ff86b3; --c7: #9aa4b1;
  }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 72rem; padding: 1.5rem 1rem 4rem; background: var(--ground); color: var(--text);
  font: 16px/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: 0 0 .3rem; }
h2 { font-size: 1.3rem; margin: 3rem 0 .3rem; padding-top: 1rem; border-top: 2px solid var(--line); }
h3 { font-size: 1rem; margin: 2rem 0 .4rem; }
p { margin: .4rem 0; max-width: 48rem; }
.soft, .note, figcaption, dt { color: var(--soft); }
.note, figcaption { font-size: .85rem; }
figcaption { margin-top: .4rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .875rem; font-variant-numeric: tabular-nums; min-width: 100%; }
th, td { padding: .35rem .6rem; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { color: var(--soft); font-weight: 600; }
th.name, td.name { text-align: left; }
tr.best td { font-weight: 650; }
tr.best td:first-child::after { content: " best"; color: var(--good); font-size: .75rem; }
.ci { display: block; color: var(--soft); font-size: .72rem; line-height: 1.2; font-weight: 400; }
.number { color: var(--soft); }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 330px), 1fr)); gap: 1.2rem;
  margin: 1rem 0; }
figure { margin: 0; padding: .8rem; background: var(--card); border-radius: .5rem; min-width: 0; }
figure h4 { margin: 0 0 .3rem; font-size: .9rem; }
svg { display: block; width: 100%; height: auto; max-width: 480px; overflow: visible; }
svg text { fill: var(--soft); font: 11px system-ui, sans-serif; }
svg .label { fill: var(--text); font-weight: 600; }
svg .grid { stroke: var(--line); stroke-width: 1; }
svg .axis { stroke: var(--soft); stroke-width: 1; }
.legend { display: flex; flex-wrap: wrap; gap: .15rem .9rem; margin: .4rem 0 0; padding: 0;
  list-style: none; font-size: .8rem; }
.legend i { display: inline-block; width: .75em; height: .75em; border-radius: 50%; margin-right: .35em; }
.legend i.again { border-radius: 0; height: .25em; vertical-align: middle; }
dl.facts { display: flex; flex-wrap: wrap; gap: .3rem 1.6rem; margin: .6rem 0; font-size: .9rem; }
dl.facts div { min-width: 0; }
dt { font-size: .75rem; }
dd { margin: 0; }
details { border-bottom: 1px solid var(--line); padding: .45rem 0; }
summary { cursor: pointer; }
details ol, details ul { margin: .2rem 0 .8rem; padding-left: 1.4rem; font-size: .875rem; }
details h5 { margin: .7rem 0 0; font-size: .85rem; }
li.relevant { color: var(--good); }
@media (max-width: 600px) {
  th, td { padding: .35rem .4rem; }
  td.name { white-space: normal; min-width: 7.5rem; }
}
.warning { border-left: 3px solid var(--c1); padding-left: .7rem; }
"""
