// What the tab cannot do on the server: ask how far a job is, follow the WebUI's checkpoint list, hand a tag to the
// prompt, read the settings of txt2img, and put a button on the LoRA cards. Presses our own hidden buttons; talks to nothing else.
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
    const status = () => part("status")?.querySelector(".transfer-lora-status");

    // The job of this window: one poll at a time, the next when the answer to the last is in the page.
    const job = {tick: null, asked: 0, done: "", active: false, shown: "", bar: ""};

    function follow() {
        const now = status();
        const root = part("root");
        if (!now || !root) return;
        const state = now.dataset.state || "idle";
        if (root.dataset.state !== state) root.dataset.state = state;
        const id = read("job");
        job.active = ACTIVE.includes(state);
        if (job.active) {
            if (id) sessionStorage.setItem("transfer_lora_job", id);
            showBar(now, id);
            if (now.dataset.done > 0 && now.dataset.done !== job.done) show(now.dataset.done);
            const answered = now.dataset.tick !== job.tick;
            if (answered || Date.now() - job.asked > 5000) {
                job.tick = now.dataset.tick;
                job.asked = Date.now();
                press("poll");
            }
        } else if (now.dataset.tick && id && job.shown !== id) {
            // Over; a quick job is so before it was ever seen going on.
            job.shown = id;
            sessionStorage.removeItem("transfer_lora_job");
            show("");
            if (Number(now.dataset.written) > 0) refreshCards();
        }
    }

    function show(done) {
        job.done = done;
        press("show");
    }

    // On a GPU the job runs in the WebUI's queue and has the WebUI's own progress bar.
    function showBar(now, id) {
        if (!now.dataset.task || typeof window.requestProgress !== "function" || job.bar === id || !id) return;
        job.bar = id;
        window.requestProgress(id, part("status"), null, function() {});
    }

    // A window that was reloaded finds its job again.
    function resume() {
        const id = sessionStorage.getItem("transfer_lora_job");
        if (!id) return;
        write("job", id);
        setTimeout(() => press("poll"), 100);
    }

    // The WebUI's own checkpoint list: its event and ours race on the server, so look again a little later.
    let checkpoint = null;

    function look() {
        press("look");
    }

    function followCheckpoint() {
        const input = app().querySelector("#setting_sd_model_checkpoint input, #setting_sd_model_checkpoint select");
        const now = (input ? input.value : "") + "|" + (window.opts?.sd_model_checkpoint || "");
        if (checkpoint !== null && now !== checkpoint) [200, 1500, 4000].forEach((ms) => setTimeout(look, ms));
        checkpoint = now;
    }

    let opened = false;

    function tick() {
        const root = part("root");
        if (!root) return;
        addCardButtons();
        if (!visible(root)) {
            if (job.active) follow();
            return;
        }
        if (!opened) {
            opened = true;
            // Without a prompt in the page there is nothing to send a tag to.
            if (app().querySelector("#txt2img_prompt")) root.dataset.prompt = "yes";
            press("open");
            resume();
        }
        if (!root.dataset.ready && part("target_line")?.textContent.trim()) root.dataset.ready = "yes";
        follow();
        followCheckpoint();
    }

    // Results.

    async function copy(text) {
        if (navigator.clipboard && window.isSecureContext) return navigator.clipboard.writeText(text);
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

    // The values of txt2img, for the pictures of a comparison; the server looks at every one of them.
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
            setTimeout(() => press("from_card"), 100);
        } else if (action === "take") {
            take();
        } else if (action === "copy") {
            copy(button.dataset.tag).then(() => {
                button.textContent = "Copied";
            });
        } else {
            send(action, button.dataset.tag);
        }
    }, true);

    // Extra Networks: the new LoRA's card, and a button on every LoRA card.

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
