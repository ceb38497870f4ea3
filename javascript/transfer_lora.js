// What the server cannot do: poll the status of jobs, follow what is chosen, also in the WebUI's own bar, put a tag into the prompt,
// read the settings of txt2img, and add a button to the LoRA cards. All requests go through hidden buttons of our own.
(function() {
    "use strict";

    const POLL_MS = 400;
    const CARD_TITLE = "Transfer this LoRA to another checkpoint";
    const ACTIVE = ["waiting", "running", "stopping"];

    const app = () => (typeof window.gradioApp === "function" ? window.gradioApp() : document);
    const part = (name) => app().querySelector("#transfer_lora_" + name);
    const visible = (element) => !!element && element.offsetParent !== null;

    function press(name) {
        const element = part(name);
        const button = element && (element.tagName === "BUTTON" ? element : element.querySelector("button"));
        if (button) button.click();
    }

    function write(name, text) {
        const field = part(name)?.querySelector("textarea, input");
        if (!field) return;
        field.value = text;
        field.dispatchEvent(new Event("input", {bubbles: true}));
    }

    const read = (name) => part(name)?.querySelector("textarea, input")?.value || "";

    // The job of a view in this window. Polls again only when the answer to the last poll is in the page.
    function follower(prefix, between) {
        const job = {tick: null, asked: 0, done: "", shownAt: 0, active: false, shown: "", bar: ""};
        const memory = "transfer_lora_" + prefix + "job";
        const mark = prefix ? "batchState" : "state";

        const status = () => part(prefix + "status")?.querySelector(".transfer-lora-status");

        job.follow = function() {
            const now = status();
            const root = part("root");
            if (!now || !root) return;
            const state = now.dataset.state || "idle";
            if (root.dataset[mark] !== state) root.dataset[mark] = state;
            const id = read(prefix + "job");
            job.active = ACTIVE.includes(state);
            if (job.active) {
                if (id) sessionStorage.setItem(memory, id);
                showBar(now, id);
                const news = now.dataset.done > 0 && now.dataset.done !== job.done;
                if (news && Date.now() - job.shownAt > between) show(now.dataset.done);
                const answered = now.dataset.tick !== job.tick;
                if (answered || Date.now() - job.asked > 5000) {
                    job.tick = now.dataset.tick;
                    job.asked = Date.now();
                    press(prefix + "poll");
                }
            } else if (now.dataset.tick && id && job.shown !== id) {
                // The job is over. A quick one may end before it was ever seen running.
                job.shown = id;
                sessionStorage.removeItem(memory);
                show("");
                if (Number(now.dataset.written) > 0) refreshCards();
            }
        };

        // Answers may arrive out of order, so ask again until the results are those of the job's end.
        job.settle = function(parts) {
            const now = status();
            const stale = now?.dataset.tick && !job.active && parts !== undefined && parts !== now.dataset.done;
            if (stale && Date.now() - job.shownAt > 2000) show("");
        };

        function show(done) {
            job.done = done;
            job.shownAt = Date.now();
            press(prefix + "show");
        }

        // On a GPU the job runs in the WebUI's queue and has the WebUI's own progress bar.
        function showBar(now, id) {
            if (!now.dataset.task || typeof window.requestProgress !== "function" || job.bar === id || !id) return;
            job.bar = id;
            window.requestProgress(id, part(prefix + "status"), null, function() {});
        }

        // After a reload, the window continues to follow its job.
        job.resume = function() {
            const id = sessionStorage.getItem(memory);
            if (!id) return;
            write(prefix + "job", id);
            setTimeout(() => press(prefix + "poll"), 100);
        };

        return job;
    }

    const one = follower("", 0);
    // The table of a batch may be long, so it is not updated for every LoRA.
    const batch = follower("batch_", 1500);

    // What the tab says of the choice: the target, the LoRAs, the cost. Answers may arrive in any order, and gradio 4 drops
    // a question while the one before is under way. So questions are numbered, and the last one is asked again until the page
    // shows the answer to it.

    // The WebUIs have their list of checkpoints above the tabs, under other ids or none (Forge), beside other settings.
    const FIELDS = ["input", "textarea", "select"];
    const BAR = [
        ...FIELDS.map((field) => field + ":not(#tabs *)"),
        ...FIELDS.map((field) => "#setting_sd_model_checkpoint " + field),
        "input[aria-label*=checkpoint i]",
    ].join(", ");
    const CHOICE = ["target", "source", "method", "rank", "dtype"];
    // The WebUI's own event and ours race on the server.
    const AGAIN_MS = [1500, 4000, 10000];
    const asking = {number: 0, at: 0, tries: 0, bar: null, choice: null};

    function ask(button = "look") {
        asking.number += 1;
        asking.tries = 0;
        write("question", String(asking.number));
        setTimeout(() => repeat(button), 100);
    }

    function repeat(button = "look") {
        asking.at = Date.now();
        asking.tries += 1;
        press(button);
    }

    const values = (fields) => fields.map((it) => ["radio", "checkbox"].includes(it.type) ? it.checked : it.value);
    const within = (name) => Array.from(part(name)?.querySelectorAll(FIELDS.join(", ")) || []);

    function bar() {
        const fields = Array.from(app().querySelectorAll(BAR)).filter((field) => !part("root").contains(field));
        return JSON.stringify([window.opts?.sd_model_checkpoint, ...values(fields)]);
    }

    function chosen() {
        const tokens = Array.from(part("adapters")?.querySelectorAll(".token") || [], (token) => token.textContent);
        return JSON.stringify([tokens, ...values(CHOICE.flatMap(within))]);
    }

    function followChoice() {
        const now = {bar: bar(), choice: chosen()};
        const first = asking.bar === null;
        const switched = now.bar !== asking.bar;
        const changed = switched || now.choice !== asking.choice;
        Object.assign(asking, now);
        if (first) return;
        if (switched) AGAIN_MS.forEach((ms) => setTimeout(ask, ms));
        if (changed) return ask();
        const answers = ["target_line", "chosen"].map((name) => part(name)?.querySelector("[data-question]"));
        const answered = answers.every((answer) => answer?.dataset.question === String(asking.number));
        if (!answered && Date.now() - asking.at > Math.min(700 * asking.tries, 5000)) repeat();
    }

    // Something else may have changed the checkpoint while the person was in another window.
    window.addEventListener("focus", () => visible(part("root")) && opened && ask());

    // Which view is open; our style sheet hides what belongs to the other one.
    function view() {
        const name = visible(part("batch_folder")) ? "batch" : "transfer";
        const root = part("root");
        if (root.dataset.view === name) return;
        root.dataset.view = name;
        if (name === "batch" && !batchOpened) {
            batchOpened = true;
            press("batch_open");
        }
    }

    let opened = false;
    let seen = false;
    let batchOpened = false;

    function tick() {
        const root = part("root");
        if (!root) return;
        addCardButtons();
        if (!visible(root)) {
            seen = false;
            for (const job of [one, batch]) if (job.active) job.follow();
            return;
        }
        if (!opened) {
            opened = true;
            // The buttons that send a tag need a prompt on the page.
            if (app().querySelector("#txt2img_prompt")) root.dataset.prompt = "yes";
            ask("open");
            one.resume();
            batch.resume();
        } else if (!seen) {
            ask();
        }
        seen = true;
        view();
        // While it waits for the server, gradio 3 writes the seconds into the line.
        if (!root.dataset.ready && part("target_line")?.querySelector("[class^=transfer-lora]")) root.dataset.ready = "yes";
        one.follow();
        batch.follow();
        batch.settle(part("batch_rows")?.querySelector("[data-parts]")?.dataset.parts);
        rows();
        save();
        followChoice();
    }

    // Sorts and filters the table of a batch.

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

    // Results.

    async function copy(text) {
        try {
            return await navigator.clipboard.writeText(text);
        } catch {
            // The page may not use the clipboard, or it did not come over a secure connection.
        }
        const field = document.createElement("textarea");
        field.value = text;
        document.body.appendChild(field);
        field.select();
        document.execCommand("copy");
        field.remove();
    }

    function send(where, tag) {
        const prompt = app().querySelector("#" + where + "_prompt textarea");
        if (!prompt) return;
        prompt.value = (prompt.value.trimEnd() + " " + tag).trim();
        prompt.dispatchEvent(new Event("input", {bubbles: true}));
        openTab(where);
    }

    // Reads the values of txt2img for a comparison; the server checks each of them.
    function take() {
        const value = (inner) => app().querySelector("#txt2img_" + inner)?.value;
        const taken = {
            prompt: value("prompt textarea"),
            negative: value("neg_prompt textarea"),
            sampler: value("sampling input"),
        };
        for (const name of ["steps", "width", "height"]) taken[name] = value(name + " input[type=number]");
        taken.cfg = value("cfg_scale input[type=number]");
        taken.seed = value("seed :is(input, textarea)");
        write("taken", JSON.stringify(taken));
        setTimeout(() => press("take"), 100);
    }

    function openTab(name) {
        const tabs = app().querySelector("#tabs");
        const page = tabs?.querySelector("#tab_" + name);
        const pages = Array.from(tabs?.children || []).filter((child) => child.id.startsWith("tab_"));
        const buttons = tabs?.querySelectorAll(":scope > .tab-nav > button") || [];
        buttons[pages.indexOf(page)]?.click();
    }

    document.addEventListener("click", function(event) {
        const button = event.target.closest && event.target.closest("[data-transfer-lora]");
        if (!button) return;
        event.stopPropagation();
        event.preventDefault();
        const action = button.dataset.transferLora;
        if (action === "card") {
            write("card", button.dataset.name);
            openTab("transfer_lora");
            part("views")?.querySelector(":scope > .tab-nav > button")?.click();
            setTimeout(() => press("from_card"), 100);
        } else if (action === "take") {
            take();
        } else if (action === "only") {
            choice.status = button.dataset.status;
            rows();
        } else if (action === "skip") {
            write("batch_skipped", button.dataset.name);
            setTimeout(() => press("batch_skip"), 100);
        } else if (action === "copy") {
            copy(button.dataset.tag).then(() => {
                button.textContent = "Copied";
            });
        } else {
            send(action, button.dataset.tag);
        }
    }, true);

    // Extra Networks: show the card of a new LoRA, and add a button to every LoRA card.

    function refreshCards() {
        for (const where of ["txt2img", "img2img"]) {
            app().querySelector("#" + where + "_lora_extra_refresh_internal")?.dispatchEvent(new Event("click"));
        }
    }

    function addCardButtons() {
        for (const where of ["txt2img", "img2img"]) {
            const cards = "#" + where + "_lora_cards .card:not([data-transfer-lora-seen])";
            for (const card of app().querySelectorAll(cards)) {
                card.dataset.transferLoraSeen = "yes";
                const row = card.querySelector(".button-row");
                if (!row || !card.dataset.name) continue;
                const button = document.createElement("div");
                button.className = "card-button transfer-lora-card";
                button.title = CARD_TITLE;
                button.textContent = "⇄";
                button.dataset.transferLora = "card";
                button.dataset.name = card.dataset.name;
                row.insertBefore(button, row.firstChild);
            }
        }
    }

    setInterval(tick, POLL_MS);
})();
