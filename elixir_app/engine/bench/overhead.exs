# What Erlang, the NIF and this application's processes add to a job and to an event, and whether a model that runs
# holds up the VM's schedulers.
#
#     cargo build --release -p sango-jobs --example overhead
#     MIX_ENV=prod mix run --no-start bench/overhead.exs [ROUNDS] [PICTURES]
#
# The same work is done by `crates/jobs/examples/overhead.rs` on the engine itself, before and after; the smaller of its
# medians is what the medians here are compared with. Exits with 1 when a bound is broken.

defmodule Overhead do
  @workspace Path.expand("../../..", __DIR__)
  @models Path.join(@workspace, "models/shapes")
  @replays 200
  # Added per job and per event, and the longest that a process may hold a scheduler. Microseconds.
  @bounds %{job: 2_000, event: 50, stall: 1_000}

  def run(rounds, pictures) do
    {:ok, _} = Application.ensure_all_started(:engine)
    direct = [direct(rounds, pictures)]
    beam = Map.merge(without_a_model(rounds), with_a_model(pictures))
    direct = [direct(rounds, pictures) | direct]

    rows =
      for {key, label, bound} <- [
            {"submit_us", "submit, until it is stored", @bounds.job},
            {"picture_us", "job of one step, from submit to its bytes", @bounds.job},
            {"cancel_us", "event, from the call that causes it", @bounds.event},
            {"replay_us", "event, each of #{beam["events"]} replayed", @bounds.event}
          ] do
        base = direct |> Enum.map(& &1[key]) |> Enum.min()
        {label, base, beam[key], beam[key] - base, bound}
      end

    IO.puts("\nmedians in microseconds     #{pad("direct")}#{pad("Elixir")}#{pad("added")}#{pad("bound")}")

    for {label, base, through, added, bound} <- rows do
      IO.puts(
        String.pad_trailing(label, 44) <> Enum.map_join([base, through, added, bound], &pad(round1(&1)))
      )
    end

    stalls = stalls()
    broken = for({label, _, _, added, bound} <- rows, added > bound, do: label) ++ stalls
    for label <- broken, do: IO.puts("over its bound: #{label}")
    if broken != [], do: System.halt(1)
  end

  defp direct(rounds, pictures) do
    program =
      Path.join([
        System.get_env("CARGO_TARGET_DIR", Path.join(@workspace, "target")),
        "release/examples/overhead"
      ])

    if not File.exists?(program),
      do: raise("build it: cargo build --release -p sango-jobs --example overhead")

    {output, 0} = System.cmd(program, [@models, "#{rounds}", "#{pictures}"])

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

  defp with_a_model(pictures) do
    with_instance([], fn ->
      picture(1, 0)
      times = for seed <- 1..pictures, do: elem(timed(fn -> picture(1, seed) end), 0)
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
      %{"picture_us" => median(times), "replay_us" => median(replays) / count, "events" => count}
    end)
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

  # While pictures are drawn one after another, with a hundred subscribers each.
  defp stalls do
    with_instance([], fn ->
      picture(1, 0)
      test = self()

      monitor =
        spawn_link(fn ->
          :erlang.system_monitor(self(), [{:long_schedule, 1}])
          collect(test, [])
        end)

      :erlang.system_flag(:microstate_accounting, true)
      :erlang.system_flag(:microstate_accounting, :reset)
      {time, _} = :timer.tc(fn -> for seed <- 1..40, do: watched(seed) end)
      accounts = :erlang.statistics(:microstate_accounting)
      :erlang.system_flag(:microstate_accounting, false)
      send(monitor, :report)
      long = receive do: ({:long, long} -> long)

      busy =
        for %{type: :scheduler, id: id, counters: counters} <- accounts do
          total = counters |> Map.values() |> Enum.sum()
          "scheduler #{id}: #{round1(100 - 100 * counters.sleep / max(total, 1))} % busy"
        end

      IO.puts(
        "\nwhile 40 pictures of 12 steps were drawn in #{round1(time / 1.0e6)} s, 100 subscribers each:"
      )

      IO.puts("  " <> Enum.join(Enum.sort(busy), ", "))

      IO.puts(
        "  schedules over #{div(@bounds.stall, 1_000)} ms: #{length(long)} #{inspect(Enum.take(long, 5))}"
      )

      for {ms, where} <- long, do: "a scheduler was held for #{ms} ms by #{inspect(where)}"
    end)
  end

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

[rounds, pictures] =
  case System.argv() do
    [] -> [500, 100]
    arguments -> Enum.map(arguments, &String.to_integer/1)
  end

Overhead.run(rounds, pictures)
