# What Erlang, the NIF and this application's processes add to a job and to an event, and whether a model that runs
# holds up the VM's schedulers.
#
#     cargo build --release -p sango-jobs --example overhead
#     MIX_ENV=prod mix run --no-start bench/overhead.exs [ROUNDS PICTURES NICE]
#
# The same work is done by `crates/jobs/examples/overhead.rs` on the engine itself. Both take turns, and each one's best
# median counts. The data folders are in memory where the system has such a folder (`/dev/shm`), because a disk's syncs
# take longer, and vary more, than what is measured. The model leaves one core to the rest, except where it says
# otherwise. Exits with 1 when a bound is broken; needs a machine at rest.

defmodule Overhead do
  @workspace Path.expand("../../..", __DIR__)
  @models Path.join(@workspace, "models/shapes")
  @replays 200
  @long_pictures 15
  @watched 100
  # Added per job and per event, and the longest that a process may hold a scheduler. Microseconds.
  @bounds %{job: 2_000, event: 50, stall: 1_000}

  @turns 3

  def run(rounds, pictures, nice) do
    {:ok, _} = Application.ensure_all_started(:engine)
    if File.dir?("/dev/shm"), do: System.put_env("TMPDIR", "/dev/shm")

    {directs, beams} =
      Enum.unzip(
        for _ <- 1..@turns do
          {direct(rounds, pictures), beam(rounds, pictures, nice)}
        end
      )

    beam = best(beams)
    direct = best(directs)

    rows =
      for {key, label, bound} <- [
            {"submit_us", "submit, until it is stored", @bounds.job},
            {"picture_us", "job of one step, from submit to its bytes", @bounds.job},
            {"cancel_us", "cancel, from the call to its event", @bounds.job},
            {"live_us", "event, from the store while a model runs", @bounds.event},
            {"crowded_us", "the same, where the model has every core", nil},
            {"replay_us", "event, replayed", @bounds.event}
          ] do
        {label, direct[key], beam[key], beam[key] - direct[key], bound}
      end

    IO.puts(
      "\n" <>
        String.pad_trailing("medians in microseconds", 44) <>
        "#{pad("direct")}#{pad("Elixir")}#{pad("added")}#{pad("bound")}"
    )

    for {label, base, through, added, bound} <- rows do
      figures = Enum.map_join([base, through, added], &pad(round1(&1)))
      IO.puts(String.pad_trailing(label, 44) <> figures <> pad(if bound, do: "#{bound}", else: "none"))
    end

    stalls = stalls(nice)
    broken = for({label, _, _, added, bound} <- rows, bound && added > bound, do: label) ++ stalls
    for label <- broken, do: IO.puts("over its bound: #{label}")
    if broken != [], do: System.halt(1)
  end

  defp cores, do: System.schedulers_online()
  defp most_cores, do: max(cores() - 1, 1)

  defp beam(rounds, pictures, nice) do
    crowded = with_a_model(1, nice, cores())

    without_a_model(rounds)
    |> Map.merge(with_a_model(pictures, nice, most_cores()))
    |> Map.put("crowded_us", crowded["live_us"])
  end

  defp direct(rounds, pictures) do
    crowded = program(1, 1, cores())
    Map.put(program(rounds, pictures, most_cores()), "crowded_us", crowded["live_us"])
  end

  defp best(runs),
    do: Enum.reduce(runs, fn run, best -> Map.merge(run, best, fn _key, a, b -> min(a, b) end) end)

  defp program(rounds, pictures, threads) do
    program =
      Path.join([
        System.get_env("CARGO_TARGET_DIR", Path.join(@workspace, "target")),
        "release/examples/overhead"
      ])

    if not File.exists?(program),
      do: raise("build it: cargo build --release -p sango-jobs --example overhead")

    {output, 0} =
      System.cmd(program, [@models, "#{rounds}", "#{pictures}"], env: [{"SANGO_NUM_THREADS", "#{threads}"}])

    for [_, key, value] <- Regex.scan(~r/"(\w+)":([\d.]+)/, output), into: %{} do
      {number, ""} = Float.parse(value)
      {key, number}
    end
  end

  defp with_instance(options, function) do
    data = Path.join(System.tmp_dir!(), "sango-bench-#{System.unique_integer([:positive])}-#{:os.getpid()}")
    {:ok, pid} = Sango.start_link([models_dir: @models, data_dir: data] ++ options)
    result = function.()
    Supervisor.stop(pid)
    File.rm_rf!(data)
    result
  end

  defp job(steps, seed) do
    %{kind: "image", prompt: "a large red circle", options: %{steps: steps, seed: seed}}
  end

  defp without_a_model(rounds) do
    with_instance([workers: 0], fn ->
      times =
        for seed <- 0..(rounds - 1) do
          {submit, {:ok, %{"id" => id}}} = timed(fn -> Sango.submit(job(2, seed)) end)
          :ok = Sango.subscribe(id, after: 1)

          {cancel, _} =
            timed(fn ->
              {:ok, _} = Sango.cancel(id)
              receive do: ({:sango, :event, ^id, %{"event" => "cancelled"}} -> :ok)
            end)

          receive do: ({:sango, :end, ^id} -> :ok)
          {submit, cancel}
        end

      {submits, cancels} = Enum.unzip(times)
      %{"submit_us" => median(submits), "cancel_us" => median(cancels)}
    end)
  end

  defp with_a_model(pictures, nice, threads) do
    with_instance([nice: nice, threads: threads], fn ->
      picture(1, 0)
      times = for seed <- 1..pictures, do: elem(timed(fn -> picture(1, seed) end), 0)
      ages = Enum.flat_map(1..@long_pictures, &event_ages/1)
      id = picture(100, 0)
      {:ok, events} = Sango.events_after(id, 0)

      replays =
        for _ <- 1..@replays do
          {time, :ok} =
            timed(fn ->
              :ok = Sango.subscribe(id)
              drain(id)
            end)

          time
        end

      count = length(events)
      %{"picture_us" => median(times), "live_us" => median(ages), "replay_us" => median(replays) / count}
    end)
  end

  # How long ago each event was stored when it arrives. Events are stamped in whole milliseconds, which adds half of one
  # on average, on either side.
  defp event_ages(seed) do
    {:ok, %{"id" => id}} = Sango.submit(job(100, seed))
    :ok = Sango.subscribe(id)
    event_ages_of(id, [])
  end

  defp event_ages_of(id, ages) do
    receive do
      {:sango, :event, ^id, %{"at" => at}} ->
        event_ages_of(id, [System.os_time(:nanosecond) - at * 1_000_000 | ages])

      {:sango, :end, ^id} ->
        ages
    end
  end

  defp picture(steps, seed) do
    {:ok, %{"id" => id}} = Sango.submit(job(steps, seed))
    :ok = Sango.subscribe(id)
    drain(id)
    {:ok, {_, _png}} = Sango.read_result(id)
    id
  end

  defp drain(id) do
    receive do
      {:sango, :event, ^id, _event} -> drain(id)
      {:sango, :end, ^id} -> :ok
    end
  end

  # Pictures with a hundred subscribers each, drawn one after another, and for comparison the same with pictures from the
  # store: the system takes a scheduler's core away now and then without any model.
  defp stalls(nice) do
    with_instance([nice: nice, threads: cores()], fn ->
      watched(0)

      without =
        observe("without a model", fn -> for _ <- 1..@watched, do: {watched(0), Process.sleep(20)} end)

      with = observe("while a model runs", fn -> for seed <- 1..@watched, do: watched(seed) end)
      if with > 2 * without + 1, do: ["schedules over 1 ms while a model runs"], else: []
    end)
  end

  # Gives the schedules over the bound, per second.
  defp observe(what, function) do
    test = self()

    monitor =
      spawn_link(fn ->
        :erlang.system_monitor(self(), [{:long_schedule, div(@bounds.stall, 1_000)}])
        collect(test, [])
      end)

    :erlang.system_flag(:microstate_accounting, true)
    :erlang.system_flag(:microstate_accounting, :reset)
    {time, _} = timed(function)
    accounts = :erlang.statistics(:microstate_accounting)
    :erlang.system_flag(:microstate_accounting, false)
    send(monitor, :report)
    long = receive do: ({:long, long} -> long)

    busy =
      for %{type: :scheduler, counters: counters} <- Enum.sort_by(accounts, & &1.id) do
        total = counters |> Map.values() |> Enum.sum()
        round1(100 - 100 * counters.sleep / max(total, 1)) <> " %"
      end

    seconds = time / 1.0e9
    {in_nif, elsewhere} = Enum.split_with(long, fn {_ms, places} -> inspect(places) =~ "Sango.Native" end)

    IO.puts("""

    #{@watched} pictures of 12 steps for 100 subscribers each, #{what}, in #{round1(seconds)} s:
      schedulers busy                 #{Enum.join(busy, ", ")}
      schedules over #{div(@bounds.stall, 1_000)} ms per second   #{round1(length(long) / seconds)}, the longest #{longest(long)} ms
      of those in a NIF call          #{length(in_nif)} of #{length(in_nif) + length(elsewhere)}
    """)

    length(long) / seconds
  end

  defp longest(long), do: long |> Enum.map(&elem(&1, 0)) |> Enum.max(fn -> 0 end)

  defp watched(seed) do
    {:ok, %{"id" => id}} = Sango.submit(job(12, 10_000 + seed))

    1..100
    |> Enum.map(fn _ ->
      Task.async(fn ->
        :ok = Sango.subscribe(id)
        drain(id)
      end)
    end)
    |> Task.await_many(60_000)
  end

  defp collect(test, long) do
    receive do
      {:monitor, _pid, :long_schedule, info} ->
        collect(test, [{info[:timeout], {info[:in], info[:out]}} | long])

      :report ->
        send(test, {:long, long})
    end
  end

  # In nanoseconds, which `:timer.tc` cannot give before OTP 26.
  defp timed(function) do
    began = System.monotonic_time(:nanosecond)
    value = function.()
    {System.monotonic_time(:nanosecond) - began, value}
  end

  defp median(nanoseconds), do: Enum.at(Enum.sort(nanoseconds), div(length(nanoseconds), 2)) / 1_000
  defp round1(number), do: :erlang.float_to_binary(number / 1, decimals: 1)
  defp pad(text), do: String.pad_leading(text, 11)
end

[rounds, pictures, nice] =
  case System.argv() do
    [] -> [300, 50, 10]
    arguments -> Enum.map(arguments, &String.to_integer/1)
  end

Overhead.run(rounds, pictures, nice)
