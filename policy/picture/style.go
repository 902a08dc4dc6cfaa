// SPDX-License-Identifier: Apache-2.0

package picture

// palette defines the colours of both documents, for light and dark.
const palette = `:root{color-scheme:light dark;
--page:#ffffff;--frame:#f4f6f8;--box:#ffffff;--line:#d5dbe1;--row:#f4f6f8;--ink:#1b232c;--soft:#5b6875;--faint:#687481;
--allow:#1a7f37;--allowbg:#dcf3e2;--deny:#c62828;--denybg:#fbe3e3;--pass:#1f5fbf;--passbg:#e0ebfb;--log:#8a5a00;--logbg:#fbeed0;--next:#55606b;--nextbg:#e6eaee;--none:#8a5a00;--nonebg:#fbeed0}
@media(prefers-color-scheme:dark){:root{
--page:#0f141a;--frame:#161d25;--box:#1b242e;--line:#313d49;--row:#222d38;--ink:#e8edf2;--soft:#a3afbb;--faint:#8f9ba7;
--allow:#6fd18b;--allowbg:#16351f;--deny:#ff8f8a;--denybg:#431b1d;--pass:#8ab8ff;--passbg:#182f50;--log:#f0c05a;--logbg:#3d2e0c;--next:#b4bec8;--nextbg:#2b3641;--none:#f0c05a;--nonebg:#3d2e0c}}
`

const svgStyle = palette + `text{font:12px ui-monospace,"DejaVu Sans Mono",Menlo,Consolas,monospace;fill:var(--ink)}
.title{font:600 26px system-ui,"Segoe UI","DejaVu Sans",sans-serif}
.sub{font:14px system-ui,"Segoe UI","DejaVu Sans",sans-serif;fill:var(--soft)}
.lane{font:600 16px system-ui,"Segoe UI","DejaVu Sans",sans-serif}
.stage{font:600 12px system-ui,"Segoe UI","DejaVu Sans",sans-serif;fill:var(--soft)}
.tier{font:600 13px system-ui,"Segoe UI","DejaVu Sans",sans-serif}
.policy{font:600 12px system-ui,"Segoe UI","DejaVu Sans",sans-serif;fill:var(--ink)}
.src,.none{font-size:11px;fill:var(--faint)}
.count{fill:var(--ink)}
.note{fill:var(--soft);font-style:italic}
.end{text-anchor:end}
.page{fill:var(--page)}
.frame{fill:var(--frame);stroke:var(--line)}
.tierbox{fill:var(--box);stroke:var(--line)}
.row{fill:var(--row)}
.label{text-anchor:middle;font-weight:600;font-size:11px}
.arrow{stroke:var(--soft);fill:none;stroke-width:1.5}
.head{fill:var(--soft)}
.allow .chip{fill:var(--allowbg)}.allow .label{fill:var(--allow)}
.deny .chip{fill:var(--denybg)}.deny .label{fill:var(--deny)}
.pass .chip{fill:var(--passbg)}.pass .label{fill:var(--pass)}
.log .chip{fill:var(--logbg)}.log .label{fill:var(--log)}
.next .chip{fill:var(--nextbg)}.next .label{fill:var(--next)}
.dead .chip{fill:none;stroke:var(--line)}.dead .row{fill:none}
.dead .label,.dead .rule{fill:var(--faint);text-decoration:line-through}
`

const pageStyle = palette + `*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--ink);font:15px/1.5 system-ui,"Segoe UI","DejaVu Sans",sans-serif}
main{max-width:1160px;margin:0 auto;padding:40px 24px 64px}
h1{font-size:30px;line-height:1.2;margin:0}
h2{font-size:19px;margin:0 0 8px}
h3{font-size:14px;font-weight:500;margin:0 0 10px;color:var(--soft);display:flex;gap:10px;align-items:center}
code{font:13px ui-monospace,"DejaVu Sans Mono",Menlo,Consolas,monospace;overflow-wrap:anywhere}
.what{margin:6px 0 0;color:var(--soft)}.what .to{padding:0 6px}
.tiles{display:flex;flex-wrap:wrap;gap:14px;margin:26px 0}
.tile{background:var(--frame);border:1px solid var(--line);border-radius:10px;padding:12px 20px;min-width:150px}
.tile b{font-size:28px;line-height:1.2}.tile i{font-style:normal;color:var(--soft)}.tile span{display:block;color:var(--soft);font-size:13px}
.tile.opened b{color:var(--allow)}.tile.closed b{color:var(--deny)}.tile.none b{color:var(--none)}
.card,.calm{background:var(--frame);border:1px solid var(--line);border-radius:12px;padding:20px 22px;margin:0 0 20px}
.nodes{margin:0 0 14px;display:flex;flex-wrap:wrap;gap:6px}
.nodes span{background:var(--box);border:1px solid var(--line);border-radius:6px;padding:1px 8px;font:13px ui-monospace,"DejaVu Sans Mono",Menlo,Consolas,monospace}
article{background:var(--box);border:1px solid var(--line);border-left:4px solid var(--next);border-radius:8px;padding:14px 18px;margin:12px 0 0}
article.opened{border-left-color:var(--allow)}article.closed{border-left-color:var(--deny)}article.none{border-left-color:var(--none)}
.badge{border-radius:5px;padding:1px 9px;font-weight:600;background:var(--nextbg);color:var(--next)}
.opened .badge{background:var(--allowbg);color:var(--allow)}.closed .badge{background:var(--denybg);color:var(--deny)}.none .badge{background:var(--nonebg);color:var(--none)}
.scroll{overflow-x:auto}
table{border-collapse:collapse;width:100%;table-layout:fixed;min-width:720px}
th{text-align:left;font-size:12px;font-weight:600;color:var(--faint);padding:0 14px 4px 0}
td{font:13px/1.45 ui-monospace,"DejaVu Sans Mono",Menlo,Consolas,monospace;padding:4px 14px 4px 0;vertical-align:top;border-top:1px solid var(--line);overflow-wrap:anywhere}
th:nth-child(1),td:nth-child(1){width:15%}th:nth-child(2),td:nth-child(2){width:18%}th:nth-child(3),td:nth-child(3),th:nth-child(4),td:nth-child(4){width:25%}th:nth-child(5),td:nth-child(5){width:17%}
dl{display:grid;grid-template-columns:max-content 1fr;gap:3px 16px;margin:12px 0 0}
dt{color:var(--faint);font-size:13px;padding-top:1px}dd{margin:0}
.v{font-weight:600}.v.allow{color:var(--allow)}.v.deny{color:var(--deny)}.v.none{color:var(--none)}
.pos{color:var(--soft);font-size:13px;white-space:nowrap}
details{margin:6px 0 0}summary{cursor:pointer;color:var(--soft);font-size:13px}
.partial{background:var(--nonebg);color:var(--none);border-radius:8px;padding:10px 16px}
.calm p:last-child{margin:0;color:var(--soft)}
`
