// Remembers what this window has chosen, for when its page is loaded again. The server looks everything up in its lists.
(function() {
    "use strict";

    const {part, write, calls} = window.transferLora;

    const MEMORY = "transfer_lora_choice";
    let last = "";

    const value = (name) => part(name)?.querySelector("input")?.value || "";

    function chosen() {
        const lines = Array.from(part("adapters")?.querySelectorAll(".token > span") || [], (line) => line.textContent.trim());
        const method = part("method")?.querySelector("input:checked")?.closest("label")?.textContent.trim() || "";
        return JSON.stringify({adapters: lines, target: value("target"), source: value("source"), method});
    }

    // Before the lists are there, nothing is chosen yet.
    calls.ticks.push(function() {
        if (!part("root").dataset.ready) return;
        const now = chosen();
        if (now !== last) sessionStorage.setItem(MEMORY, now);
        last = now;
    });
    // Written before the lists are asked for.
    calls.opened.push(() => write("remembered", sessionStorage.getItem(MEMORY) || ""));
})();
