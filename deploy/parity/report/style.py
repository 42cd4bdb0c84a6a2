"""The page's look: one accent a series, light and dark, wide things scroll inside themselves."""

CSS = """
:root { color-scheme: light dark;
  --page: #ffffff; --card: #f6f7f9; --ink: #1c2530; --quiet: #5d6875; --rule: #dde2e8;
  --accumulated: #2361c4; --own: #b8520a; --bad: #b3261e; --good: #1b7340; }
@media (prefers-color-scheme: dark) { :root {
  --page: #12161c; --card: #1a2029; --ink: #e4e9ef; --quiet: #98a4b2; --rule: #2d3641;
  --accumulated: #7fb0ff; --own: #f2a561; --bad: #ff8a80; --good: #6fce97; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 24px 20px 48px; max-width: 1000px; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
h1 { font-size: 22px; line-height: 1.25; margin: 0 0 4px; overflow-wrap: anywhere; }
h2 { font-size: 17px; margin: 36px 0 4px; }
p { margin: 4px 0 12px; max-width: 72ch; overflow-wrap: anywhere; }
.quiet, figcaption { color: var(--quiet); }
.own { color: var(--own); fill: var(--own); } .accumulated { color: var(--accumulated); fill: var(--accumulated); }
.passed { color: var(--good); font-weight: 600; } .failed { color: var(--bad); font-weight: 600; }
.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(210px, 1fr)); gap: 12px; margin: 16px 0; }
.fact { background: var(--card); border-radius: 8px; padding: 10px 14px; overflow-wrap: anywhere; }
.fact b { display: block; font-size: 20px; font-weight: 600; font-variant-numeric: tabular-nums; }
.fact span { color: var(--quiet); font-size: 13px; }
svg { display: block; width: 100%; height: auto; }
svg text { font-size: 12px; fill: var(--quiet); } svg text.callout { fill: var(--ink); paint-order: stroke;
  stroke: var(--page); stroke-width: 4px; stroke-linejoin: round; }
svg text.own { fill: var(--own); } svg text.accumulated { fill: var(--accumulated); }
.grid { stroke: var(--rule); } .base { stroke: var(--quiet); } .limit { stroke: var(--bad); stroke-dasharray: 4 3; }
.curve { fill: none; stroke: var(--accumulated); stroke-width: 1.5; }
.leader { stroke: var(--quiet); stroke-dasharray: 2 2; }
.ring { fill: none; stroke: var(--ink); stroke-width: 1.5; }
.interval { stroke-width: 2; opacity: .6; } .interval.own { stroke: var(--own); }
.interval.accumulated { stroke: var(--accumulated); }
.kept { fill: var(--accumulated); } .lost { fill: var(--own); }
.narrow { display: none; }
@media (max-width: 640px) { .wide { display: none; } .narrow { display: block; } body { padding: 16px 14px 40px; } }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(168px, 1fr)); gap: 12px; }
figure { margin: 0; background: var(--card); border-radius: 8px; padding: 10px; }
figure svg text.callout { stroke: var(--card); } figure svg text { font-size: 13px; }
figcaption { font-size: 12px; line-height: 1.35; overflow-wrap: anywhere; } figcaption b { color: var(--ink); }
.scroll { overflow-x: auto; border: 1px solid var(--rule); border-radius: 8px; }
table { border-collapse: collapse; width: 100%; font-size: 13px; font-variant-numeric: tabular-nums; }
th, td { padding: 4px 12px; text-align: right; white-space: nowrap; border-top: 1px solid var(--rule); }
thead th { color: var(--quiet); font-weight: 500; border-top: 0; background: var(--card); }
tbody th { font-weight: 400; } th:first-child { text-align: left; position: sticky; left: 0; background: var(--page); }
thead th:first-child { background: var(--card); } tr.worst th, tr.worst td { font-weight: 600; }
@media (max-width: 640px) { th:first-child { min-width: 40vw; white-space: normal; overflow-wrap: anywhere; } }
.bars { display: grid; gap: 6px; } .bar { display: grid; grid-template-columns: minmax(0, 2fr) 3fr 64px; gap: 10px;
  align-items: center; font-size: 13px; overflow-wrap: anywhere; font-variant-numeric: tabular-nums; }
.bar i { display: block; height: 10px; border-radius: 3px; background: var(--own); min-width: 1px; }
details { margin-top: 12px; } summary { cursor: pointer; color: var(--quiet); }
"""
