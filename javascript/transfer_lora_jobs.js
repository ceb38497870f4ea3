// Follows the jobs of this window: polls their status, shows their results, and finds them again after a reload.
(function() {
    "use strict";

    const {app, part, visible, press, write, read, calls} = window.transferLora;
    const server = () => window.transferLora.server;

    const ACTIVE = ["waiting", "running", "stopping"];
    // An answer that takes longer than this makes us wonder whether the WebUI is there, and then ask once more.
    const OVERDUE_MS = 3000;
    const LOST_MS = 5000;

    // The job of a view. Polls again only when the answer to the last poll is in the page.
    function follower(prefix, between) {
        const job = {tick: null, asked: 0, done: "", shownAt: 0, active: false, shown: "", ended: "", bar: ""};
        const memory = "transfer_lora_" + prefix + "job";
        const mark = prefix ? "batchState" : "state";

        const status = () => part(prefix + "status")?.querySelector(".transfer-lora-status");

        // Which buttons there are follows from the state, by our style sheet. A job that goes on is found again after a reload.
        job.mark = function() {
            const now = status();
            const root = part("root");
            if (!now || !root) return null;
            const state = server().state === "restarted" ? "restarted" : now.dataset.state || "idle";
            const id = read(prefix + "job");
            if (id && ACTIVE.includes(state)) sessionStorage.setItem(memory, id);
            if (root.dataset[mark] !== state) root.dataset[mark] = state;
            return state;
        };

        job.follow = function() {
            const now = status();
            const state = job.mark();
            if (state === null) return;
            const restarted = state === "restarted";
            const id = read(prefix + "job");
            job.active = ACTIVE.includes(state);
            if (job.active) {
                showBar(now, id);
                // The status says that a job is over only together with its results, which are asked for until they are here.
                if (now.dataset.over) {
                    const overdue = job.shown === id && Date.now() - job.shownAt > OVERDUE_MS;
                    if (overdue) server().wonder();
                    if (job.shown !== id || (overdue && !server().state && !server().asking)) show("");
                    job.shown = id;
                    return;
                }
                // One question at a time: a late answer to a poll would stand where the end of the job already stood.
                const answered = now.dataset.tick !== job.tick;
                const silence = Date.now() - job.asked;
                if (!answered && silence > OVERDUE_MS) server().wonder();
                if (answered || (silence > LOST_MS && !server().state && !server().asking)) {
                    job.tick = now.dataset.tick;
                    job.asked = Date.now();
                    const news = now.dataset.done > 0 && now.dataset.done !== job.done;
                    if (news && Date.now() - job.shownAt > between) show(now.dataset.done);
                    else press(prefix + "poll");
                }
            } else if (!restarted && now.dataset.tick && id && job.ended !== id) {
                // The job is over. A quick one may end before it was ever seen running.
                job.ended = id;
                sessionStorage.setItem(memory, id);
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

        // After a reload, the window continues to follow its job, or shows the results of its last one.
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
    // Not before the tab shows what was chosen: what is kept with a LoRA is asked for together with the results.
    let resumed = false;
    calls.ticks.push(function() {
        if (resumed || !part("root").dataset.ready) return;
        resumed = true;
        one.resume();
        batch.resume();
    });
    calls.always.push(function() {
        for (const job of [one, batch]) if (job.active || visible(part("root"))) job.follow();
    });
    calls.changed.push(() => [one, batch].forEach((job) => job.mark()));
    calls.ticks.push(() => batch.settle(part("batch_rows")?.querySelector("[data-parts]")?.dataset.parts));

    // Extra Networks shows the card of a new LoRA.
    function refreshCards() {
        for (const where of ["txt2img", "img2img"]) {
            app().querySelector("#" + where + "_lora_extra_refresh_internal")?.dispatchEvent(new Event("click"));
        }
    }
})();
