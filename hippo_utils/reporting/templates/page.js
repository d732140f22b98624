// Filters over a table: one choice per column that has few different values, and a search over the rest.
for (const table of document.querySelectorAll("table[data-filter]")) {
  const rows = [...table.tBodies[0].rows], heads = [...table.tHead.rows[0].cells];
  const bar = document.createElement("div"), count = document.createElement("span"), choices = [];
  const show = () => {
    let shown = 0;
    for (const row of rows) {
      row.hidden = !choices.every(keeps => keeps(row));
      shown += !row.hidden;
    }
    count.textContent = shown === rows.length ? "" : `${shown} of ${rows.length} rows`;
  };
  const add = (label, control, keeps) => {
    const wrap = document.createElement("label");
    wrap.append(label + " ", control);
    control.addEventListener("input", show);
    choices.push(keeps);
    bar.append(wrap);
  };
  bar.className = "filters";
  heads.forEach((head, column) => {
    if (head.className === "n" && head.textContent !== "shots") return;  // measured numbers are looked at, not chosen by
    const values = [...new Set(rows.map(row => row.cells[column].textContent))];
    if (values.length < 2 || values.length > (head.className === "long" ? 12 : 50) || values.length > rows.length / 2) return;
    const choice = document.createElement("select");
    choice.append(new Option("all", ""), ...values.map((value, index) => new Option(value || "(empty)", index + 1)));
    add(head.textContent, choice, row => !choice.value || row.cells[column].textContent === values[choice.value - 1]);
  });
  const search = document.createElement("input");
  search.type = "search";
  add("search", search, row => row.textContent.toLowerCase().includes(search.value.toLowerCase()));
  bar.append(count);
  table.parentElement.before(bar);
}
