"use strict";
(() => {
  const PAGE = 60;
  const jobs = JSON.parse(document.getElementById("data").textContent);
  jobs.forEach((job, n) => {
    job.n = n;
    job.text = [job.id, job.prompt, job.error_code, job.error, job.task_id, ...Object.values(job.extra || {})].join("\n").toLowerCase();
  });
  const byId = (id) => document.getElementById(id);
  const cards = byId("cards"), more = byId("more"), words = byId("words"), order = byId("order"), states = byId("states");
  let shown = [], next = 0;

  const make = (tag, text, name) => {
    const element = document.createElement(tag);
    if (text !== undefined) element.textContent = text;
    if (name) element.className = name;
    return element;
  };

  // A thousand videos at once would be a thousand open files: only those near the window have a source.
  const near = new IntersectionObserver((entries) => {
    for (const { target, isIntersecting } of entries) {
      if (isIntersecting && !target.hasAttribute("src")) {
        if (target.dataset.frame) target.poster = target.dataset.frame;
        else target.preload = "metadata";
        target.src = target.dataset.src;
      } else if (!isIntersecting && target.hasAttribute("src") && target.paused) {
        target.removeAttribute("src");
        target.load();
      }
    }
  }, { rootMargin: "600px" });

  const media = (job) => {
    if (job.video) {
      const video = make("video", undefined, "media");
      video.controls = video.loop = video.playsInline = true;
      video.preload = "none";
      video.dataset.src = job.video;
      if (job.frame) video.dataset.frame = job.frame;
      video.setAttribute("aria-label", "Video of " + job.id);
      near.observe(video);
      return video;
    }
    if (!job.frame) return make("div", "no video", "media none");
    const image = make("img", undefined, "media");
    image.loading = "lazy";
    image.alt = "First frame of " + job.id;
    image.src = job.frame;
    return image;
  };

  const facts = (job) => {
    const list = make("dl");
    const add = (name, value) => {
      if (value === undefined) return;
      list.append(make("dt", name), make("dd", String(value)));
    };
    add("reason", job.error_code && job.error_code + (job.error ? ": " + job.error : ""));
    add("seed", job.seed);
    add("cost", job.credits.toLocaleString("en", { maximumFractionDigits: 2 }) + " credits");
    add("made in", job.seconds === undefined ? undefined : Math.round(job.seconds) + " s");
    add("format", (job.duration || 5) + " s, " + (job.quality || "720p"));
    if (job.attempts > 1) add("attempts", job.attempts);
    add("task", job.task_id);
    for (const [name, value] of Object.entries(job.extra || {})) add(name, value);
    return list;
  };

  const card = (job) => {
    const item = make("li"), body = make("div", undefined, "body"), head = make("h3", job.id + " ");
    head.append(make("span", job.state, "state " + job.state));
    body.append(head);
    if (job.prompt) {
      const prompt = make("p", job.prompt, "prompt");
      if (job.prompt.length > 150) prompt.tabIndex = 0;
      body.append(prompt);
    }
    body.append(facts(job));
    item.append(media(job), body);
    return item;
  };

  const showMore = () => {
    const part = shown.slice(next, next + PAGE);
    next += part.length;
    cards.append(...part.map(card));
    more.hidden = next >= shown.length;
    more.textContent = "Show more (" + (shown.length - next).toLocaleString("en") + " left)";
  };

  const refresh = () => {
    const wanted = new Set([...states.querySelectorAll("input:checked")].map((box) => box.value));
    const parts = words.value.toLowerCase().split(/\s+/).filter(Boolean);
    shown = jobs.filter((job) => wanted.has(job.state) && parts.every((part) => job.text.includes(part)));
    const key = order.value;
    if (key !== "input") shown.sort((a, b) => (b[key] || 0) - (a[key] || 0) || a.n - b.n);
    near.disconnect();
    cards.replaceChildren();
    next = 0;
    byId("count").textContent = shown.length.toLocaleString("en") + " of " + jobs.length.toLocaleString("en") + " jobs";
    showMore();
  };

  const counts = new Map();
  for (const job of jobs) counts.set(job.state, (counts.get(job.state) || 0) + 1);
  for (const [state, count] of counts) {
    const label = make("label"), box = make("input");
    box.type = "checkbox";
    box.value = state;
    box.checked = true;
    label.append(box, make("span", state + " (" + count.toLocaleString("en") + ")"));
    states.append(label);
  }
  byId("filter").addEventListener("input", refresh);
  byId("filter").addEventListener("submit", (event) => event.preventDefault());
  more.addEventListener("click", showMore);
  new IntersectionObserver((entries) => { if (entries[0].isIntersecting && !more.hidden) showMore(); }).observe(more);
  refresh();
})();
