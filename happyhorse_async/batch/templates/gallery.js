"use strict";
(() => {
  const PAGE = 60;
  const POSTER_WIDTH = 480;
  const MOST_IN_A_GROUP = 100;
  const jobs = JSON.parse(document.getElementById("data").textContent);
  jobs.forEach((job, n) => {
    job.n = n;
    job.text = [job.id, job.prompt, job.error_code, job.error, job.task_id, job.image, ...Object.values(job.extra || {})]
      .join("\n").toLowerCase();
  });
  const byId = (id) => document.getElementById(id);
  const cards = byId("cards"), more = byId("more"), words = byId("words"), order = byId("order"), group = byId("group");
  const states = byId("states"), codes = byId("codes");
  let shown = [], next = 0, groups = new Map(), list = cards;

  const make = (tag, text, name) => {
    const element = document.createElement(tag);
    if (text !== undefined) element.textContent = text;
    if (name) element.className = name;
    return element;
  };
  const count = (n, word) => n.toLocaleString("en") + " " + word + (n === 1 ? "" : "s");

  // --- Videos. A thousand at once would be a thousand open files: only those near the window have
  // a source. Where there is no first frame to show, the video's own is drawn once and kept.

  const keepPoster = (video, job) => {
    if (job.poster || !video.videoWidth) return;
    const canvas = document.createElement("canvas");
    canvas.width = POSTER_WIDTH;
    canvas.height = Math.round((POSTER_WIDTH * video.videoHeight) / video.videoWidth);
    try {
      canvas.getContext("2d").drawImage(video, 0, 0, canvas.width, canvas.height);
      job.poster = canvas.toDataURL("image/jpeg", 0.8);
      video.poster = job.poster;
    } catch (error) {
      // A page from the disk may not read pictures: then the video's metadata is loaded each time.
      if (error.name !== "SecurityError") throw error;
    }
  };

  const near = new IntersectionObserver((entries) => {
    for (const { target, isIntersecting } of entries) {
      const job = jobs[target.dataset.n];
      if (isIntersecting && !target.hasAttribute("src")) {
        const poster = job.frame || job.poster;
        if (poster) target.poster = poster;
        else target.preload = "metadata";
        target.src = job.video;
      } else if (!isIntersecting && target.hasAttribute("src") && target.paused) {
        target.removeAttribute("src");
        target.load();
      }
    }
  }, { rootMargin: "600px" });

  const media = (job) => {
    const stage = make("div", undefined, "stage");
    let shown;
    if (job.video) {
      shown = make("video", undefined, "media");
      shown.controls = shown.loop = shown.playsInline = true;
      shown.preload = "none";
      shown.dataset.n = job.n;
      shown.setAttribute("aria-label", "Video of " + job.id);
      shown.addEventListener("loadeddata", () => job.frame || keepPoster(shown, job));
      near.observe(shown);
    } else if (job.frame) {
      shown = make("img", undefined, "media");
      shown.loading = "lazy";
      shown.decoding = "async";
      shown.alt = "First frame of " + job.id;
      shown.src = job.frame;
    } else {
      shown = make("div", "no video", "media none");
    }
    if (job.ratio) shown.style.setProperty("--ratio", job.ratio);
    stage.append(shown);
    return stage;
  };

  // --- Cards.

  const amount = (credits) => credits.toLocaleString("en", { maximumFractionDigits: 2 }) + " credits";

  const meta = (job) => {
    const parts = [(job.duration || 5) + " s", job.quality || "720p", amount(job.credits)];
    if (job.seconds !== undefined) parts.push("made in " + Math.round(job.seconds).toLocaleString("en") + " s");
    if (job.attempts > 1) parts.push(job.attempts + " attempts");
    return make("p", parts.join(" · "), "meta");
  };

  const facts = (job) => {
    const details = make("details", undefined, "facts"), table = make("dl");
    const add = (name, value) => value === undefined || table.append(make("dt", name), make("dd", String(value)));
    add("job", job.id);
    add("first frame", job.image);
    add("seed", job.seed);
    add("task", job.task_id);
    for (const [name, value] of Object.entries(job.extra || {})) add(name, value);
    details.append(make("summary", "Details"), table);
    return details;
  };

  const copy = async (text) => {
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      // Not from the disk, in some browsers: the old way still works there.
      const area = make("textarea", text, "hidden");
      document.body.append(area);
      area.select();
      document.execCommand("copy");
      area.remove();
    }
  };

  const actions = (job) => {
    const row = make("div", undefined, "actions");
    if (job.video) {
      const link = make("a", "Download", "button");
      link.href = job.video;
      link.download = "";
      link.setAttribute("aria-label", "Download the video of " + job.id);
      row.append(link);
    }
    const id = job.task_id || job.id, button = make("button", "Copy id", "button");
    button.type = "button";
    button.title = id;
    button.setAttribute("aria-label", "Copy id " + id);
    button.addEventListener("click", async () => {
      await copy(id);
      button.textContent = "Copied";
      byId("told").textContent = "Copied " + id;
      setTimeout(() => (button.textContent = "Copy id"), 1500);
    });
    row.append(button);
    return row;
  };

  const prompt = (job) => {
    const text = make("p", job.prompt, "prompt");
    if (job.prompt.length < 140) return [text];
    text.classList.add("short");
    const whole = make("button", "Whole prompt", "link");
    whole.type = "button";
    whole.setAttribute("aria-expanded", "false");
    whole.addEventListener("click", () => {
      const short = text.classList.toggle("short");
      whole.textContent = short ? "Whole prompt" : "Less";
      whole.setAttribute("aria-expanded", String(!short));
    });
    return [text, whole];
  };

  // A job without an id of the caller's has a digest: its first frame tells people more.
  const nameOf = (job) => (/^[0-9a-f]{16}$/.test(job.id) ? job.image : job.id);

  const card = (job, common) => {
    const item = make("li", undefined, "card"), body = make("div", undefined, "body");
    const differing = common ? common.differing : [];
    const caption = differing.filter((name) => name !== "prompt").map((name) => tell(name, job)).filter(Boolean).join(" · ");
    const head = make(common ? "h4" : "h3");
    head.append(make("span", caption || (differing.length ? "" : nameOf(job))));
    if (job.state !== "saved") head.append(make("span", job.state, "badge " + job.state));
    body.append(head);
    if (job.prompt && (!common || differing.includes("prompt"))) body.append(...prompt(job));
    if (job.error_code) {
      const reason = make("p", undefined, "reason");
      reason.append(make("b", job.error_code), job.error || "");
      body.append(reason);
    }
    body.append(meta(job), actions(job), facts(job));
    item.append(media(job), body);
    return item;
  };

  // --- Groups: what was made from one first frame side by side, with what differs as caption.

  const FIELDS = ["prompt", "seed", "duration", "quality", "model"];
  const value = (name, job) => (FIELDS.includes(name) ? job[name] : (job.extra || {})[name]);
  const tell = (name, job) => {
    const it = value(name, job);
    if (it === undefined) return "";
    return name === "quality" || name === "model" ? it : name === "duration" ? it + " s" : name + " " + it;
  };

  const frameOf = (job) => job.frame || job.image || "";
  const grouped = (list) => {
    const found = new Map();
    for (const job of list) {
      const key = frameOf(job);
      if (!found.has(key)) found.set(key, { jobs: [], differing: [] });
      found.get(key).jobs.push(job);
    }
    for (const one of found.values()) {
      const names = [...FIELDS, ...new Set(one.jobs.flatMap((job) => Object.keys(job.extra || {})))];
      one.differing = names.filter((name) => new Set(one.jobs.map((job) => value(name, job))).size > 1);
    }
    return found;
  };

  const heading = (one) => {
    const item = make("li", undefined, "group"), head = make("header"), text = make("div"), first = one.jobs[0];
    if (first.frame) {
      const image = make("img");
      image.loading = "lazy";
      image.alt = "";
      image.src = first.frame;
      head.append(image);
    }
    text.append(make("h3", first.image));
    const differing = one.jobs.length > 1 && one.differing.length ? "; they differ by " + one.differing.join(", ") : "";
    text.append(make("p", count(one.jobs.length, "job") + differing));
    if (first.prompt && !one.differing.includes("prompt")) text.append(...prompt(first));
    head.append(text);
    list = make("ul", undefined, "cards");
    item.append(head, list);
    cards.append(item);
  };

  const showMore = () => {
    const part = shown.slice(next, next + PAGE);
    next += part.length;
    for (const job of part) {
      const one = groups.get(frameOf(job));
      if (one && !one.begun) {
        one.begun = true;
        heading(one);
      }
      list.append(card(job, one));
    }
    more.hidden = next >= shown.length;
    more.textContent = "Show more (" + (shown.length - next).toLocaleString("en") + " left)";
  };

  // --- What is shown.

  const chosen = (where) => new Set([...where.querySelectorAll("input:checked")].map((box) => box.value));

  const refresh = () => {
    const wanted = chosen(states), only = chosen(codes);
    const parts = words.value.toLowerCase().split(/\s+/).filter(Boolean);
    shown = jobs.filter((job) =>
      (only.size ? only.has(job.error_code) : wanted.has(job.state)) && parts.every((part) => job.text.includes(part)));
    const key = order.value;
    if (key !== "input") shown.sort((a, b) => (b[key] || 0) - (a[key] || 0) || a.n - b.n);
    near.disconnect();
    cards.replaceChildren();
    list = cards;
    groups = group.value ? grouped(shown) : new Map();
    if (group.value) shown = [...groups.values()].flatMap((one) => one.jobs);
    cards.classList.toggle("grouped", Boolean(group.value));
    cards.classList.toggle("cards", !group.value);
    next = 0;
    byId("count").textContent = shown.length.toLocaleString("en") + " of " + count(jobs.length, "job");
    showMore();
  };

  const chips = (where, name, checked) => {
    const counts = new Map();
    for (const job of jobs) if (job[name]) counts.set(job[name], (counts.get(job[name]) || 0) + 1);
    for (const [text, number] of counts) {
      const label = make("label"), box = make("input");
      box.type = "checkbox";
      box.value = text;
      box.checked = checked;
      label.append(box, make("span", text + " (" + number.toLocaleString("en") + ")"));
      where.append(label);
    }
    return counts.size;
  };
  byId("states-set").hidden = chips(states, "state", true) < 2;
  byId("codes-set").hidden = chips(codes, "error_code", false) < 1;
  const sizes = [...grouped(jobs).values()].map((one) => one.jobs.length);
  const several = sizes.filter((size) => size > 1).length;
  byId("grouping").hidden = !several;
  // A sweep makes several from each first frame; a batch that uses one over and over is no sweep.
  if (several * 2 > sizes.length && jobs.length <= sizes.length * MOST_IN_A_GROUP) group.value = "image";

  byId("filter").addEventListener("input", refresh);
  byId("filter").addEventListener("submit", (event) => event.preventDefault());
  more.addEventListener("click", showMore);
  new IntersectionObserver((entries) => { if (entries[0].isIntersecting && !more.hidden) showMore(); }, { rootMargin: "400px" }).observe(more);
  refresh();
})();
