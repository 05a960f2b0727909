defmodule Sango.QueueTest do
  use Sango.Case, async: true

  alias Sango.MemoryBackend, as: Memory

  defp submit(name, options \\ []) do
    {request, options} = Keyword.split(options, [:prompt, :priority, :idempotency_key])
    request = Map.new([kind: "image", prompt: "a red circle"] ++ request)
    Sango.submit(request, [name: name] ++ options)
  end

  defp submit!(name, options \\ []) do
    {:ok, %{"id" => id}} = submit(name, options)
    id
  end

  defp order(name) do
    {:ok, waiting} = Sango.waiting(name: name)
    Enum.map(waiting, & &1.id)
  end

  defp state(name, id) do
    {:ok, %{"state" => state}} = Sango.get(id, name: name)
    state
  end

  describe "admission" do
    test "a job is stored when the call returns", %{name: name} = context do
      start_memory(context)
      assert {:ok, job, true} = Sango.submit_with_status(%{"prompt" => "a"}, name: name)
      assert {:ok, ^job} = Sango.get(job["id"], name: name)
      assert {:ok, [%{id: id, client: client, priority: 0}]} = Sango.waiting(name: name)
      assert {id, client} == {job["id"], self()}
    end

    test "errors of the engine come through", %{name: name} = context do
      start_memory(context)

      assert {:error, %Sango.Error{code: "invalid_request", status: 400}} =
               Sango.submit(%{prompt: 1}, name: name)

      assert {:error, %Sango.Error{code: "unknown_job", status: 404}} = Sango.get("x", name: name)
      assert {:ok, []} = Sango.waiting(name: name)
    end

    test "the bound holds however many submit at once", %{name: name} = context do
      start_memory(context, max_unfinished: 20)

      answers =
        1..200
        |> Enum.map(fn _ -> Task.async(fn -> submit(name, detached: true) end) end)
        |> Enum.map(&Task.await/1)

      {taken, refused} = Enum.split_with(answers, &match?({:ok, _}, &1))
      assert length(taken) == 20
      for {:error, error} <- refused, do: assert(%{code: "queue_full", status: 503} = error)
      # One that ends makes room for one.
      Memory.finish(name, Memory.start_next(name))
      assert {:ok, _} = submit(name)
      assert {:error, %{code: "queue_full"}} = submit(name)
    end

    test "submissions in flight are bounded without touching the store", %{name: name} = context do
      start_memory(context, max_unfinished: 5)
      Memory.hold(name)
      tasks = for _ <- 1..5, do: Task.async(fn -> submit(name, detached: true) end)
      eventually(fn -> assert Memory.held(name) == 5 end)
      assert {:error, %{code: "queue_full", message: "5 jobs are just being handed in" <> _}} = submit(name)
      Memory.release(name)
      for task <- tasks, do: assert({:ok, _} = Task.await(task))
    end

    test "each client has its share", %{name: name} = context do
      start_memory(context, max_per_client: 2)
      for _ <- 1..2, do: submit!(name, client: "ann")

      assert {:error, %{code: "queue_full", message: "this client has 2 jobs" <> _}} =
               submit(name, client: "ann")

      id = submit!(name, client: "bob")
      {:ok, _} = Sango.cancel(id, name: name)
      eventually(fn -> assert length(order(name)) == 2 end)
      for _ <- 1..2, do: submit!(name, client: "bob")
      assert {:error, _} = submit(name, client: "bob")
    end

    test "a known idempotency key is answered with its job", %{name: name} = context do
      start_memory(context)
      request = %{prompt: "a", idempotency_key: "k"}
      assert {:ok, job, true} = Sango.submit_with_status(request, name: name)
      assert {:ok, ^job, false} = Sango.submit_with_status(request, name: name)
      assert order(name) == [job["id"]]
    end

    @tag :capture_log
    test "a backend that breaks while it stores is an error, and the queue goes on",
         %{name: name} = context do
      start_memory(context)
      assert {:error, %{code: "internal", status: 500}} = submit(name, prompt: "crash")
      assert {:ok, _} = submit(name)
    end

    test "without an instance there is an error, not an exit", %{name: name} do
      assert {:error, %Sango.Error{code: "shutting_down", status: 503}} = submit(name)
      assert {:error, %Sango.Error{code: "shutting_down"}} = Sango.get("x", name: name)
      assert {:error, %Sango.Error{code: "shutting_down"}} = Sango.subscribe("x", name: name)
      assert {:error, %Sango.Error{code: "shutting_down"}} = Sango.await("x", 10, name: name)
      assert :ok = Sango.unsubscribe("x", name: name)
    end
  end

  describe "order" do
    test "clients take turns, and workers take jobs in that order", %{name: name} = context do
      start_memory(context)
      [a1, a2, a3] = for _ <- 1..3, do: submit!(name, client: "ann")
      b1 = submit!(name, client: "bob")
      urgent = submit!(name, client: "cid", priority: 5)
      assert order(name) == [urgent, a1, b1, a2, a3]
      eventually(fn -> assert Memory.places(name) == [urgent, a1, b1, a2, a3] end)
      taken = for _ <- 1..5, do: Memory.start_next(name)
      assert taken == [urgent, a1, b1, a2, a3]
    end

    test "one client alone costs the engine nothing", %{name: name} = context do
      start_memory(context)
      # Told once when it starts to take up what it finds, never after.
      ids = for _ <- 1..20, do: submit!(name, client: "ann")
      Process.sleep(50)
      told = Memory.arrangements(name)
      assert told <= 1
      for id <- ids, do: assert(Memory.start_next(name) == id)
      eventually(fn -> assert order(name) == [] end)
      assert Memory.arrangements(name) == told
    end

    test "a job that failed in passing waits again, and keeps its age", %{name: name} = context do
      start_memory(context)
      [first, second] = for _ <- 1..2, do: submit!(name, client: "ann")
      assert Memory.start_next(name) == first
      eventually(fn -> assert order(name) == [second] end)
      Memory.stumble(name, first)
      eventually(fn -> assert order(name) == [first, second] end)
    end

    test "news that was lost is made up for", %{name: name} = context do
      start_memory(context)
      [first, second] = for _ <- 1..2, do: submit!(name)
      eventually(fn -> assert order(name) == [first, second] end)
      Memory.deafen(name)
      Memory.finish(name, Memory.start_next(name))
      third = submit!(name)
      assert order(name) == [first, second, third]
      Memory.lag(name)
      eventually(fn -> assert order(name) == [second, third] end)
    end
  end

  describe "askers" do
    test "a job is cancelled when the process that asked dies", %{name: name} = context do
      start_memory(context)
      {pid, waiting} = asker(fn -> submit!(name) end)
      {_pid, other} = asker(fn -> submit!(name) end)
      running = Memory.start_next(name)
      assert running == waiting
      Process.exit(pid, :kill)
      eventually(fn -> assert state(name, waiting) == "cancelled" end)
      assert state(name, other) == "queued"
    end

    test "a detached job goes on", %{name: name} = context do
      start_memory(context)
      {pid, detached} = asker(fn -> submit!(name, detached: true) end)
      {other, owned} = asker(fn -> submit!(name) end)
      for pid <- [pid, other], do: Process.exit(pid, :kill)
      eventually(fn -> assert state(name, owned) == "cancelled" end)
      assert state(name, detached) == "queued"
    end

    test "one that ends in an orderly way counts as well, and so does an asker that is named", context do
      %{name: name} = context
      start_memory(context)
      named = spawn(fn -> Process.sleep(:infinity) end)
      id = Task.await(Task.async(fn -> submit!(name) end))
      for_named = submit!(name, asker: named)
      eventually(fn -> assert state(name, id) == "cancelled" end)
      assert state(name, for_named) == "queued"
      Process.exit(named, :kill)
      eventually(fn -> assert state(name, for_named) == "cancelled" end)
    end

    test "one that dies while its job is being stored takes it along", %{name: name} = context do
      start_memory(context)
      Memory.hold(name)
      pid = spawn(fn -> submit(name) end)
      eventually(fn -> assert Memory.held(name) == 1 end)
      Process.exit(pid, :kill)
      Memory.release(name)

      eventually(fn ->
        assert {:ok, %{"jobs" => [%{"state" => "cancelled"}]}} = Sango.list(%{}, name: name)
      end)
    end

    test "asking twice with one idempotency key joins", %{name: name} = context do
      start_memory(context)
      {first, id} = asker(fn -> submit!(name, idempotency_key: "k") end)
      {second, ^id} = asker(fn -> submit!(name, idempotency_key: "k") end)
      Process.exit(first, :kill)
      Process.sleep(50)
      assert state(name, id) == "queued"
      Process.exit(second, :kill)
      eventually(fn -> assert state(name, id) == "cancelled" end)
    end

    test "monitors go with the jobs", %{name: name} = context do
      start_memory(context)
      for _ <- 1..50, do: Memory.finish(name, submit!(name))
      queue = process(name, :queue)
      eventually(fn -> assert {:monitors, []} = Process.info(queue, :monitors) end)
      assert :sys.get_state(queue).ledger.jobs == %{}
      assert :ets.tab2list(:sys.get_state(queue).table) == []
    end
  end

  describe "after a crash of the queue" do
    @describetag :capture_log

    test "what waits is taken up, with its clients and askers", %{name: name} = context do
      start_memory(context)
      a1 = submit!(name, client: "ann")
      a2 = submit!(name, client: "ann")
      {pid, b1} = asker(fn -> submit!(name, client: "bob") end)
      {other, c1} = asker(fn -> submit!(name, client: "cid") end)
      eventually(fn -> assert order(name) == [a1, b1, c1, a2] end)

      kill_and_wait(name, :queue)
      eventually(fn -> assert order(name) == [a1, b1, c1, a2] end)
      assert {:ok, [%{client: "ann"}, %{client: "bob"} | _]} = Sango.waiting(name: name)

      Process.exit(pid, :kill)
      eventually(fn -> assert state(name, b1) == "cancelled" end)
      assert order(name) -- [a1, c1, a2] == []
      assert Process.alive?(other)
    end

    test "an asker that died meanwhile is noticed", %{name: name} = context do
      start_memory(context)
      {pid, id} = asker(fn -> submit!(name) end)
      :sys.suspend(process(name, :queue))
      Process.exit(pid, :kill)
      kill_and_wait(name, :queue)
      eventually(fn -> assert state(name, id) == "cancelled" end)
    end

    test "a job that was being stored is found", %{name: name} = context do
      start_memory(context)
      Memory.hold(name)
      {pid, _} = asker(fn -> spawn(fn -> submit(name, client: "ann") end) end)
      eventually(fn -> assert Memory.held(name) == 1 end)
      kill_and_wait(name, :queue)
      Memory.release(name)
      eventually(fn -> assert {:ok, [%{client: nil}]} = Sango.waiting(name: name) end)
      assert Process.alive?(pid)
    end
  end

  describe "telemetry" do
    test "says what happens to jobs", %{name: name} = context do
      :telemetry.attach(name, self())
      start_memory(context, max_unfinished: 1)
      assert_receive {:telemetry, [:sango, :engine, :open], %{duration: _}, %{name: ^name}}
      id = submit!(name, client: "ann")

      assert_receive {:telemetry, [:sango, :job, :submit], %{duration: d},
                      %{id: ^id, client: "ann", created?: true}}

      assert d > 0
      {:error, _} = submit(name, client: "bob")
      assert_receive {:telemetry, [:sango, :job, :refuse], _, %{client: "bob", code: "queue_full"}}
      Memory.start_next(name)
      assert_receive {:telemetry, [:sango, :job, :start], %{wait_ms: _}, %{id: ^id, client: "ann"}}
      Memory.finish(name, id)
      assert_receive {:telemetry, [:sango, :job, :stop], %{run_ms: _}, %{id: ^id, state: "finished"}}
    end
  end
end
