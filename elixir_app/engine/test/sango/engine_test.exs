defmodule Sango.EngineTest do
  @moduledoc "The whole of it on the real engine, drawing with the model that ships with this project."
  use Sango.Case, async: false

  @moduletag timeout: 120_000

  test "a picture is drawn", %{name: name} = context do
    start_native(context)
    assert :ok = Sango.ready(name: name)
    assert {:ok, [%{"name" => "amused", "default" => true} | _]} = Sango.models(name: name)
    {:ok, job} = Sango.submit(picture(steps: 4, seed: 7), name: name)
    id = job["id"]
    :ok = Sango.subscribe(id, name: name)
    events = events(id)
    assert Enum.map(events, & &1["n"]) == Enum.to_list(1..length(events))
    assert for(%{"event" => "progress", "data" => %{"step" => s}} <- events, do: s) == [1, 2, 3, 4]
    assert List.last(events)["event"] == "finished"
    assert {:ok, %{"state" => "finished"}} = Sango.await(id, 5_000, name: name)

    assert {:ok, {%{"content_type" => "image/png", "sha256" => sha256, "bytes" => size}, png}} =
             Sango.read_result(id, name: name)

    assert <<137, "PNG", _::binary>> = png
    assert byte_size(png) == size
    assert Base.encode16(:crypto.hash(:sha256, png), case: :lower) == sha256
    assert {:ok, %{"path" => path}} = Sango.result(id, name: name)
    assert File.read!(path) == png

    # The same again is answered from the store.
    assert {:ok, %{"state" => "finished", "result" => %{"cached" => true, "sha256" => ^sha256}}, true} =
             Sango.submit_with_status(picture(steps: 4, seed: 7), name: name)

    # And from a picture, as bytes.
    request = Map.put(picture(steps: 2), :image, {:bytes, png})
    {:ok, %{"id" => id}} = Sango.submit(request, name: name)

    assert {:ok, %{"state" => "finished", "request" => %{"image" => %{"width" => 64}}}} =
             Sango.await(id, 20_000, name: name)
  end

  test "models are loaded and unloaded", %{name: name} = context do
    start_native(context)
    assert {:ok, %{"name" => "amused", "loaded" => true}} = Sango.load_model("amused", name: name)
    assert {:ok, [%{"loaded" => true} | _]} = Sango.models(name: name)
    assert {:ok, %{"loaded" => false}} = Sango.unload_model("amused", name: name)
    assert {:error, %Sango.Error{code: "unknown_model"}} = Sango.load_model("nothing", name: name)
  end

  test "the error table and the description are there" do
    table = Sango.error_table()
    assert {"queue_full", 503} in table
    assert Enum.all?(table, fn {code, status} -> is_binary(code) and status in 400..599 end)
    assert Sango.openapi() =~ "\"/v1/jobs\""
    assert Sango.version() =~ ~r/^\d+\.\d+\.\d+/
  end

  test "an expired result is said to be gone", %{name: name} = context do
    start_native(context)
    {:ok, %{"id" => id}} = Sango.submit(picture(), name: name)
    {:ok, %{"state" => "finished"}} = Sango.await(id, 30_000, name: name)
    {:ok, %{"path" => path}} = Sango.result(id, name: name)
    File.rm!(path)
    assert {:error, %Sango.Error{code: "expired", status: 410}} = Sango.result(id, name: name)
    assert {:error, %Sango.Error{code: "expired", status: 410}} = Sango.read_result(id, name: name)
    assert {:ok, %{"state" => "expired"}} = Sango.get(id, name: name)
    # Asking for the same picture draws it again.
    {:ok, %{"id" => again}} = Sango.submit(picture(), name: name)
    assert {:ok, %{"state" => "finished"}} = Sango.await(again, 30_000, name: name)
  end

  test "clients take turns on the real queue", %{name: name} = context do
    start_native(context)
    # Holds the only worker while the others line up.
    {:ok, %{"id" => first}} = Sango.submit(picture(steps: 100, seed: 1), name: name, client: :zoe)

    submit = fn client, seed, priority ->
      request = Map.put(picture(seed: seed), :priority, priority)
      {:ok, %{"id" => id}} = Sango.submit(request, name: name, client: client)
      id
    end

    [a1, a2, a3] = for seed <- 11..13, do: submit.(:ann, seed, 0)
    b1 = submit.(:bob, 21, 0)
    urgent = submit.(:ann, 31, 9)
    fair = [urgent, b1, a1, a2, a3]
    {:ok, waiting} = Sango.waiting(name: name)
    assert Enum.map(waiting, & &1.id) == fair

    eventually(fn ->
      positions = for id <- fair, do: Sango.get(id, name: name) |> elem(1) |> Map.fetch!("position")
      assert positions == [1, 2, 3, 4, 5]
    end)

    {:ok, _} = Sango.cancel(first, name: name)
    for id <- fair, do: assert({:ok, %{"state" => "finished"}} = Sango.await(id, 30_000, name: name))
    started = Enum.map(fair, fn id -> Sango.get(id, name: name) |> elem(1) |> Map.fetch!("started_at") end)
    assert started == Enum.sort(started)
  end

  test "the job of an asker that dies stops within its run", %{name: name} = context do
    start_native(context)
    {pid, {:ok, %{"id" => id}}} = asker(fn -> Sango.submit(picture(steps: 100), name: name) end)
    :ok = Sango.subscribe(id, name: name)
    assert_receive {:sango, :event, ^id, %{"event" => "progress"}}, 30_000
    Process.exit(pid, :kill)
    assert List.last(events(id))["event"] == "cancelled"
    assert {:error, %Sango.Error{code: "no_result"}} = Sango.result(id, name: name)
  end

  test "1,000 subscribers see every event of a picture in order", %{name: name} = context do
    start_native(context)
    test = self()
    {:ok, %{"id" => id}} = Sango.submit(picture(steps: 12, seed: 3), name: name)

    tasks =
      for n <- 1..1_000 do
        Task.async(fn ->
          :ok = Sango.subscribe(id, name: name)
          if n == 1_000, do: send(test, :all_there)
          Enum.map(events(id), &{&1["n"], &1["event"]})
        end)
      end

    assert_receive :all_there, 20_000
    {:ok, %{"last_event" => last}} = Sango.await(id, 60_000, name: name)
    {:ok, stored} = Sango.events_after(id, 0, name: name)
    expected = Enum.map(stored, &{&1["n"], &1["event"]})
    assert length(expected) == last
    for task <- tasks, do: assert(Task.await(task, 20_000) == expected)
  end

  @tag :capture_log
  test "a queue that is killed in the middle of a run leaves the run alone", %{name: name} = context do
    start_native(context)
    {pid, {:ok, %{"id" => id}}} = asker(fn -> Sango.submit(picture(steps: 40), name: name) end)
    {:ok, %{"id" => waiting}} = asker(fn -> Sango.submit(picture(seed: 9), name: name) end) |> elem(1)
    :ok = Sango.subscribe(id, name: name)
    assert_receive {:sango, :event, ^id, %{"event" => "progress"}}, 30_000
    kill_and_wait(name, :queue)
    assert List.last(events(id))["event"] == "finished"
    assert for(%{"event" => "started"} <- stored(name, id), do: :started) == [:started]
    assert {:ok, %{"state" => "finished"}} = Sango.await(waiting, 30_000, name: name)
    # The new one knows whom to cancel for.
    {other, {:ok, %{"id" => long}}} = asker(fn -> Sango.submit(picture(steps: 100), name: name) end)
    for pid <- [pid, other], do: Process.exit(pid, :kill)
    eventually(fn -> assert {:ok, %{"state" => "cancelled"}} = Sango.get(long, name: name) end)
  end

  @tag :capture_log
  test "an engine that is killed in the middle of a run runs the job again", %{name: name} = context do
    start_native(context)
    {:ok, %{"id" => id}} = Sango.submit(picture(steps: 60), name: name)
    {:ok, %{"id" => next}} = Sango.submit(picture(steps: 2, seed: 9), name: name)
    :ok = Sango.subscribe(id, name: name, after: 2)
    assert_receive {:sango, :event, ^id, %{"event" => "progress"} = first}, 30_000
    kill_and_wait(name, :owner)
    told = [first | events(id)]
    numbers = Enum.map(told, & &1["n"])
    # The subscription went on where it was: no event is missing, none came twice.
    assert numbers == Enum.to_list(hd(numbers)..length(stored(name, id)))
    assert [%{"data" => %{"attempt" => again}}] = Enum.filter(told, &(&1["event"] == "queued"))
    assert again in [1, 2]
    assert List.last(told)["event"] == "finished"
    assert {:ok, %{"state" => "finished"}} = Sango.await(next, 30_000, name: name)
  end

  defp stored(name, id), do: Sango.events_after(id, 0, name: name) |> elem(1)

  @tag :capture_log
  test "a cause that may pass is tried again, up to a limit", %{name: name, data: data} = context do
    start_native(context, max_attempts: 2)
    # Results cannot be stored while a file is in the place of their folder.
    results = Path.join(data, "results")
    File.rename!(results, results <> ".away")
    File.write!(results, "")
    {:ok, %{"id" => id}} = Sango.submit(picture(), name: name)
    assert {:ok, %{"state" => "failed", "error" => %{"code" => code}}} = Sango.await(id, 30_000, name: name)
    assert code in ["storage", "storage_full"]
    assert for(%{"event" => "started", "data" => %{"attempt" => n}} <- stored(name, id), do: n) == [1, 2]

    # A passing cause that passes.
    {:ok, %{"id" => id}} = Sango.submit(picture(steps: 40, seed: 5), name: name)
    eventually(fn -> assert {:ok, %{"state" => "running"}} = Sango.get(id, name: name) end)
    File.rm!(results)
    File.rename!(results <> ".away", results)
    assert {:ok, %{"state" => "finished"}} = Sango.await(id, 30_000, name: name)
  end

  test "an instance that stops keeps its jobs for the next start", %{name: name} = context do
    start_native(context)
    {:ok, %{"id" => running}} = Sango.submit(picture(steps: 80), name: name, detached: true)
    {:ok, %{"id" => waiting}} = Sango.submit(picture(steps: 2, seed: 9), name: name, detached: true)
    :ok = Sango.subscribe(running, name: name)
    assert_receive {:sango, :event, ^running, %{"event" => "progress"}}, 30_000
    stop_supervised!(name)
    assert_receive {:sango, :end, ^running}
    assert {:error, %Sango.Error{code: "shutting_down"}} = Sango.get(running, name: name)

    start_native(context)

    for id <- [running, waiting],
        do: assert({:ok, %{"state" => "finished"}} = Sango.await(id, 60_000, name: name))

    {:ok, events} = Sango.events_after(running, 0, name: name)
    assert %{"data" => %{"attempt" => 1}} = Enum.find(events, &(&1["event"] == "started"))
  end

  @tag :capture_log
  test "a data folder serves one engine at a time", %{name: name, data: data} = context do
    start_native(context)
    Process.flag(:trap_exit, true)
    options = [name: :"#{name}2", data_dir: data, models_dir: models_dir(), open_timeout: 100]
    assert {:error, {:shutdown, {:failed_to_start_child, Sango.Engine, error}}} = Sango.start_link(options)
    assert %Sango.Error{code: "storage", message: message} = error
    assert message =~ "another Sango is using it"
  end
end
