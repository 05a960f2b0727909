defmodule Sango.NativeTest do
  @moduledoc "The NIF by itself: what it does with nonsense, with dead owners, and with handles nobody holds."
  use Sango.Case, async: false

  import Sango.Property

  alias Sango.Native

  @moduletag timeout: 180_000

  # Every function with the number of its arguments.
  @functions [
    open: 2,
    close: 1,
    submit: 2,
    get: 2,
    cancel: 2,
    list: 2,
    events_after: 3,
    subscribe: 5,
    watch: 3,
    unsubscribe: 1,
    result: 2,
    stage_result: 3,
    media: 3,
    read_result: 2,
    models: 1,
    load_model: 2,
    unload_model: 2,
    ready: 1,
    stats: 1,
    arrange: 2
  ]

  defp open!(data, options \\ []) do
    {:ok, engine} = Native.open(Map.new([models_dir: models_dir(), data_dir: data] ++ options), self())
    engine
  end

  test "every function of the behaviour is in the list above" do
    assert Enum.sort(Sango.Backend.behaviour_info(:callbacks)) == Enum.sort(@functions)
  end

  test "random arguments give an error or a value, whatever they are", %{data: data} do
    engine = open!(data)
    {:ok, {%{"id" => id}, true}} = Native.submit(engine, picture())
    {:ok, subscription} = Native.watch(engine, self(), :tag)
    closed = open!(data <> "-closed")
    :ok = Native.close(closed)
    on_exit(fn -> File.rm_rf!(data <> "-closed") end)
    good = [engine, engine, engine, closed, id, subscription, self()]

    for_all(5_000, fn ->
      {function, arity} = one_of(@functions)
      arguments = for _ <- 1..arity//1, do: if(between(1, 2) == 1, do: one_of(good), else: term(3))
      arguments = spare(function, arguments, engine, data)
      check(function, arguments, apply(Native, function, arguments))
    end)

    # It still works.
    {:ok, {%{"id" => id}, true}} = Native.submit(engine, picture(seed: between(1, 1_000_000)))
    {:ok, subscription} = Native.subscribe(engine, id, 0, self(), :last)
    assert_receive {:sango_end, :last}, 30_000
    :ok = Native.unsubscribe(subscription)
    :ok = Native.close(engine)
  end

  test "random requests are refused or stored", %{data: data} do
    engine = open!(data, workers: 0, max_unfinished: 50)

    for_all(3_000, fn ->
      request = Enum.reduce(1..between(1, 4), picture(), fn _, request -> spoil(request) end)
      answer = Native.submit(engine, request)
      check(:submit, [engine, request], answer)
      with {:ok, {%{"id" => id}, _}} <- answer, do: {:ok, _} = Native.cancel(engine, id)
    end)

    :ok = Native.close(engine)
  end

  test "the facade passes nonsense on, and gets errors back", %{name: name} = context do
    start_native(context, workers: 0)
    options = [name: name]

    for_all(500, fn ->
      {a, b} = {term(2), term(2)}

      for answer <- [
            Sango.get(a, options),
            Sango.cancel(a, options),
            Sango.list(a, options),
            Sango.events_after(a, b, options),
            Sango.subscribe(a, options),
            Sango.await(a, 1_000, options),
            Sango.result(a, options),
            Sango.read_result(a, options),
            Sango.load_model(a, options),
            Sango.unload_model(a, options),
            Sango.submit(a, [client: b] ++ options)
          ] do
        assert match?({:ok, _}, answer) or match?({:error, %Sango.Error{}}, answer), inspect({a, b, answer})
      end

      assert :ok = Sango.unsubscribe(a, options)
    end)

    assert {:ok, _} = Sango.waiting(options)
    assert DynamicSupervisor.count_children(process(name, :feeds)).active == 0
  end

  # Neither closes the engine under test, nor opens one in a folder of somebody else's.
  defp spare(:close, [engine], engine, _data), do: [:not_this_one]

  defp spare(:open, [options, owner], _engine, data) when is_map(options) do
    options =
      Map.new(options, fn {key, value} ->
        {if(key in ["data_dir", "models_dir"], do: "x", else: key), value}
      end)

    [Map.put(options, :data_dir, data), owner]
  end

  defp spare(_function, arguments, _engine, _data), do: arguments

  defp check(function, arguments, answer) do
    valid? =
      case answer do
        :ok -> true
        {:ok, _value} -> true
        {:error, {code, message, status}} -> is_binary(code) and String.valid?(message) and status in 400..599
        _ -> false
      end

    assert valid?, "#{function} with #{inspect(arguments, limit: 20)} gave #{inspect(answer, limit: 20)}"
  end

  defp spoil(request) do
    case between(1, 4) do
      1 ->
        Map.put(
          request,
          one_of([:kind, :prompt, :question, :model, :image, :mask, :media, :priority, :idempotency_key]),
          term(2)
        )

      2 ->
        put_in(request, [:options], term(2))

      3 when is_map(request.options) and not is_struct(request.options) ->
        put_in(request, [:options, option()], term(2))

      _ ->
        Map.put(request, term(1), term(1))
    end
  end

  defp option do
    one_of([
      :negative_prompt,
      :steps,
      :guidance_scale,
      :seed,
      :width,
      :height,
      :temperature,
      :strength,
      "steps"
    ])
  end

  defp term(0), do: leaf()

  defp term(depth) do
    case between(1, 10) do
      1 ->
        for _ <- 1..between(0, 4)//1, do: term(depth - 1)

      2 ->
        List.to_tuple(for _ <- 1..between(0, 4)//1, do: term(depth - 1))

      3 ->
        for _ <- 1..between(0, 4)//1, into: %{}, do: {term(depth - 1), term(depth - 1)}

      4 ->
        [term(depth - 1) | term(depth - 1)]

      5 ->
        {:bytes, term(depth - 1)}

      6 ->
        %{one_of([:state, :limit, :before, "limit", :threads, :workers, :nice, :data_dir]) => term(depth - 1)}

      _ ->
        leaf()
    end
  end

  defp leaf do
    one_of([
      fn -> nil end,
      fn -> one_of([true, false, :undefined, :"", :é, Sango]) end,
      fn -> between(-3, 3) end,
      fn -> one_of([2 ** 31, 2 ** 63, 2 ** 64, -(2 ** 63) - 1, 2 ** 200]) end,
      fn -> one_of([0.0, -0.0, 1.5, 1.0e308, -1.0e-308]) end,
      fn -> :crypto.strong_rand_bytes(between(0, 40)) end,
      fn -> one_of(["", "a", "image", "\0", "日本", <<0xC0, 0x80>>, <<0xED, 0xA0, 0x80>>, <<0xFF>>]) end,
      fn -> "018f0000-0000-7000-8000-00000000000" <> Integer.to_string(between(0, 9)) end,
      fn -> <<5::size(between(1, 7))>> end,
      fn -> String.duplicate(one_of(["a", "é", <<200>>]), one_of([200, 2_001, 100_000])) end,
      fn -> Enum.reduce(1..one_of([40, 200, 5_000]), [], fn _, inner -> [inner] end) end,
      fn -> Enum.reduce(1..300, %{}, fn _, inner -> %{"a" => inner} end) end,
      fn -> Enum.to_list(1..one_of([10, 10_000])) end,
      fn -> self() end,
      fn -> make_ref() end,
      fn -> &leaf/0 end
    ]).()
  end

  test "a closed engine says so in every function", %{data: data} do
    engine = open!(data)
    {:ok, {%{"id" => id}, true}} = Native.submit(engine, picture())
    {:ok, subscription} = Native.subscribe(engine, id, 0, self(), :tag)
    assert :ok = Native.close(engine)
    assert :ok = Native.close(engine)
    assert_receive {:sango_end, :tag}, 5_000
    assert :ok = Native.unsubscribe(subscription)
    assert :ok = Native.unsubscribe(subscription)

    for {function, arguments} <- [
          submit: [picture()],
          get: [id],
          cancel: [id],
          list: [%{}],
          events_after: [id, 0],
          subscribe: [id, 0, self(), :tag],
          watch: [self(), :tag],
          result: [id],
          read_result: [id],
          models: [],
          load_model: ["amused"],
          unload_model: ["amused"],
          ready: [],
          stats: [],
          arrange: [[id]]
        ] do
      answer = apply(Native, function, [engine | arguments])
      assert {^function, {:error, {"shutting_down", _, 503}}} = {function, answer}
    end
  end

  test "an engine closes with its owner, and its work waits for the next", %{data: data} do
    {owner, {engine, id}} =
      asker(fn ->
        engine = open!(data)
        {:ok, {%{"id" => id}, true}} = Native.submit(engine, picture(steps: 100))
        {engine, id}
      end)

    {:ok, subscription} = Native.subscribe(engine, id, 0, self(), :tag)
    assert_receive {:sango_event, :tag, %{"event" => "progress"}}, 30_000
    Process.exit(owner, :kill)
    assert_receive {:sango_end, :tag}, 30_000
    :ok = Native.unsubscribe(subscription)
    eventually(fn -> assert {:error, {"shutting_down", _, 503}} = Native.get(engine, id) end)

    engine = reopen(data)
    assert {:ok, %{"state" => state}} = Native.get(engine, id)
    assert state in ["interrupted", "running"]
    {:ok, _} = Native.cancel(engine, id)
    :ok = Native.close(engine)
  end

  test "an engine closes when nobody holds its handle any more", %{data: data} do
    test = self()

    spawn(fn ->
      # Of the test's process, which lives on.
      {:ok, _engine} = Native.open(%{models_dir: models_dir(), data_dir: data}, test)
      send(test, :opened)
    end)

    assert_receive :opened, 10_000
    :ok = Native.close(reopen(data))
  end

  test "a subscription ends with its process, and with its handle", %{data: data} do
    engine = open!(data, workers: 0)
    {:ok, {%{"id" => id}, true}} = Native.submit(engine, picture())
    feeds = fn -> Native.stats(engine) |> elem(1) |> Map.fetch!("feeds") end

    {pid, _} = asker(fn -> Native.subscribe(engine, id, 0, self(), :tag) end)
    assert feeds.() == 1
    Process.exit(pid, :kill)
    eventually(fn -> assert feeds.() == 0 end)

    # The handle is garbage when the process that holds it is done with it.
    test = self()
    spawn(fn -> {:ok, _} = Native.subscribe(engine, id, 0, test, :tag) end)
    eventually(fn -> assert feeds.() == 0 end)
    :ok = Native.close(engine)
  end

  defp reopen(data) do
    case Native.open(%{models_dir: models_dir(), data_dir: data}, self()) do
      {:ok, engine} ->
        engine

      {:error, {"storage", _, 500}} ->
        Process.sleep(10)
        :erlang.garbage_collect()
        reopen(data)
    end
  end
end
