"""The style sheet and the script of the page: light, dark and print."""

STYLE = """
:root { color-scheme: light; --back: #ffffff; --text: #24292f; --note: #57606a; --edge: #d0d7de;
  --panel: #f6f8fa; }
:root[data-theme="dark"] { color-scheme: dark; --back: #0d1117; --text: #e6edf3; --note: #9198a1;
  --edge: #30363d; --panel: #161b22; }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1180px; padding: 0 20px 40px; background: var(--back);
  color: var(--text); font: 15px/1.5 system-ui, sans-serif; }
header { display: flex; align-items: center; justify-content: space-between; gap: 20px; }
h1 { font-size: 24px; }
h2 { font-size: 17px; margin: 0; } h3 { font-size: 15px; margin: 14px 0 4px; }
main { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(520px, 100%), 1fr));
  gap: 18px; }
section { background: var(--panel); border: 1px solid var(--edge); border-radius: 8px;
  padding: 14px 16px; min-width: 0; }
#section-roofline, #section-operations, #section-access, #section-ranks, #commands,
section:has(#summary) { grid-column: 1 / -1; }
.note { color: var(--note); font-size: 13px; margin: 2px 0 6px; }
.plot { min-height: 240px; }
table { border-collapse: collapse; width: 100%; overflow-x: auto; }
th, td { text-align: right; padding: 3px 10px; border-bottom: 1px solid var(--edge);
  font-variant-numeric: tabular-nums; }
th:first-child { text-align: left; font-weight: 500; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; background: var(--back); padding: 8px 10px;
  border: 1px solid var(--edge); border-radius: 6px; margin: 0; font-size: 12.5px; }
button { font: inherit; color: inherit; background: var(--panel); border: 1px solid var(--edge);
  border-radius: 6px; padding: 4px 12px; cursor: pointer; }
@media print { button { display: none; } main { display: block; }
  section { break-inside: avoid; margin-bottom: 12px; } }
"""

SCRIPT = """
(function () {
  const root = document.documentElement, media = matchMedia('(prefers-color-scheme: dark)');
  const ids = [];
  let chosen = null;
  function isDark() { return chosen === null ? media.matches : chosen === 'dark'; }
  function paint(dark) {
    root.dataset.theme = dark ? 'dark' : 'light';
    const colour = getComputedStyle(root).getPropertyValue('--text').trim();
    const panel = getComputedStyle(root).getPropertyValue('--panel').trim();
    return Promise.all(ids.map(id => Plotly.relayout(id, {
      'font.color': colour, 'hoverlabel.bgcolor': panel, 'hoverlabel.font.color': colour })));
  }
  root.dataset.theme = isDark() ? 'dark' : 'light';
  const drawn = [];
  for (const source of document.querySelectorAll('script[data-plot]')) {
    const figure = JSON.parse(source.textContent), id = source.dataset.plot;
    ids.push(id);
    drawn.push(Plotly.newPlot(id, figure.data, figure.layout,
      { responsive: true, displaylogo: false }));
  }
  media.addEventListener('change', () => paint(isDark()));
  document.getElementById('theme').addEventListener('click', () => {
    chosen = isDark() ? 'light' : 'dark'; paint(isDark()); });
  addEventListener('beforeprint', () => paint(false));
  addEventListener('afterprint', () => paint(isDark()));
  Promise.all(drawn).then(() => paint(isDark())).then(() => { root.dataset.ready = 'yes'; });
})();
"""
