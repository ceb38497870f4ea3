// Sorts, filters and saves the table of a batch.
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
        const sorted = Array.from(table.tBodies[0].rows).sort((a, b) => compare(value(a), value(b)));
        table.tBodies[0].append(...sorted);
    }

    document.addEventListener("click", function(event) {
        const heading = event.target.closest && event.target.closest("#transfer_lora_batch_table thead th");
        if (!heading) return;
        choice.down = choice.column === heading.cellIndex && !choice.down;
        choice.column = heading.cellIndex;
        rows();
    });

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
    calls.ticks.push(rows, save);
})();
