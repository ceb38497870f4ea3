// Sorts, filters and saves the table of a batch, and shows the details of its rows.
(function() {
    "use strict";

    const {part, press, read, write, actions, calls} = window.transferLora;

    const choice = {column: -1, down: false, status: ""};

    function rows() {
        const table = part("batch_rows")?.querySelector("table");
        const filter = read("batch_filter").toLowerCase();
        const seen = JSON.stringify([filter, choice.column, choice.down, choice.status]);
        if (!table || table.dataset.seen === seen) return;
        table.dataset.seen = seen;
        if (choice.column >= 0) sort(table);
        for (const row of table.tBodies[0].rows) {
            const fits = !choice.status || row.dataset.status === choice.status;
            row.hidden = !(fits && row.textContent.toLowerCase().includes(filter));
        }
        const headings = table.tHead.rows[0].cells;
        for (let i = 0; i < headings.length; i++) {
            const order = choice.down ? "descending" : "ascending";
            headings[i].ariaSort = i === choice.column ? order : "none";
        }
        for (const chip of part("batch_rows").querySelectorAll(".transfer-lora-chip")) {
            chip.ariaPressed = String(chip.dataset.status === choice.status);
        }
    }

    function sort(table) {
        const value = (row) => {
            const cell = row.cells[choice.column];
            return cell.dataset.value === undefined ? cell.textContent : Number(cell.dataset.value);
        };
        const compare = (a, b) => {
            // Cells without a value come last in either order.
            if (a === "" || b === "") return (a === "") - (b === "");
            const order = typeof a === "string" || typeof b === "string" ? String(a).localeCompare(String(b)) : a - b;
            return choice.down ? -order : order;
        };
        const body = table.tBodies[0];
        const sorted = Array.from(body.rows).sort((a, b) => compare(value(a), value(b)));
        // A row that is moved loses the focus.
        if (sorted.some((row, i) => row !== body.rows[i])) body.append(...sorted);
    }

    actions.sort = function(button) {
        const column = button.closest("th").cellIndex;
        choice.down = choice.column === column && !choice.down;
        choice.column = column;
        rows();
    };

    // The server sends the table to save as a link. Browsers limit the size of such links, but not of blobs.
    let saved = "";

    async function save() {
        const link = part("batch_saved")?.querySelector("a[download]");
        if (!link || link.href === saved) return;
        saved = link.href;
        const blob = await (await fetch(link.href)).blob();
        link.href = saved = URL.createObjectURL(blob);
        link.click();
    }

    actions.only = function(button) {
        choice.status = button.dataset.status;
        rows();
    };
    actions.skip = function(button) {
        write("batch_skipped", button.dataset.name);
        setTimeout(() => press("batch_skip"), 100);
    };

    // The details of a row. They are brought into sight when they arrive, and asked for again when their row has changed.
    let wanted = null;

    const shown = () => part("batch_details")?.querySelector("[data-details]");
    const named = (name) => part("batch_rows")?.querySelector(`[data-transfer-lora=details][data-name="${CSS.escape(name)}"]`);

    function ask(name) {
        write("batch_detailed", name);
        setTimeout(() => press("batch_show_details"), 100);
    }

    function details() {
        const now = shown();
        for (const button of part("batch_rows")?.querySelectorAll("[data-transfer-lora=details]") || []) {
            const current = button.dataset.name === now?.dataset.details;
            if (button.ariaExpanded !== String(current)) button.ariaExpanded = String(current);
        }
        if (!now) return;
        if (now.dataset.details === wanted) {
            wanted = null;
            now.focus({preventScroll: true});
            now.scrollIntoView({block: "nearest"});
        }
        const status = named(now.dataset.details)?.closest("tr").dataset.status;
        if (status && status !== now.dataset.status && now.dataset.asked !== status) {
            now.dataset.asked = status;
            ask(now.dataset.details);
        }
    }

    actions.details = function(button) {
        wanted = button.dataset.name;
        ask(wanted);
    };
    actions.close = function() {
        const name = shown()?.dataset.details;
        wanted = null;
        ask("");
        if (name) named(name)?.focus();
    };
    calls.changed.push(rows, details);
    calls.ticks.push(rows, details, save);
})();
